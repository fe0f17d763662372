"""Forced text as the tokens that the tokenizer would have written.

A grammar knows which bytes must follow; the model knows tokens. The bytes are encoded together with the text before them, so
that the seam is cut as the tokenizer cuts it, and tokens at the end are left out if what follows could join them: the last
word, as the pre-tokenizer sees it.
Source: the problem and the remedy are SGLang's jump-forward decoding (https://lmsys.org/blog/2024-02-05-compressed-fsm/).
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

NUM_RECENT = 16
"""Tokens before the seam that are encoded again: a few words."""


class Retokenizer:
    """Not thread-safe: it belongs to the executor's worker, like the matchers that use it.

    `token_bytes` [vocab]: the bytes of each token. `reads_special_tokens`: text that spells a special token is that token.
    """

    def __init__(self, tokenizer_json: str, token_bytes: Sequence[bytes], *, reads_special_tokens: bool = False) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = not reads_special_tokens
        self._token_bytes = token_bytes

    def forced_ids(self, recent_ids: Sequence[int], forced: bytes) -> tuple[int, ...]:
        """Tokens for `forced` after `recent_ids`, the last tokens of the text; without those that could still change.

        None if the tokenizer would write a token across the seam, if it has no pre-tokenizer, or if it changes the text.
        """
        tail = b"".join(map(self._bytes_of, recent_ids))
        tail = tail[_start_of_char(tail) :]
        text = (tail + forced).decode("utf-8", errors="ignore")
        stable = self._num_stable_bytes(text)
        if stable <= len(tail):
            return ()
        ids: list[int] = []
        written = b""
        for token_id in self._tokenizer.encode(text, add_special_tokens=False).ids:
            starts_at = len(written)
            written += self._bytes_of(token_id)
            if starts_at < len(tail) < len(written):
                return ()
            if starts_at >= len(tail) and len(written) <= stable:
                ids.append(token_id)
        return tuple(ids) if written == text.encode() else ()

    def _bytes_of(self, token_id: int) -> bytes:
        return self._token_bytes[token_id] if token_id < len(self._token_bytes) else b""

    def _num_stable_bytes(self, text: str) -> int:
        """Where the last word begins: text that follows may become a part of it."""
        if self._tokenizer.pre_tokenizer is None or not text:
            return 0
        words = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return len(text[: words[-1][1][0]].encode()) if words else 0


def _start_of_char(text: bytes) -> int:
    """Bytes at the beginning that belong to a character which began before."""
    return next((at for at, byte in enumerate(text[:4]) if byte & 0xC0 != 0x80), min(4, len(text)))
