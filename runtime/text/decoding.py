"""Token ids to text, a few at a time: the pieces joined are exactly the text of all ids decoded at once.

Owns the ids whose text is not shown yet. A piece is held back while it ends in U+FFFD, which is how the tokenizer shows an
incomplete UTF-8 character; `flush` gives what is still held when the sequence ends. Decoding a token can depend on the one
before it (sentencepiece drops the space before the first word), so a window of the last shown ids is decoded along.

One exception: where byte tokens are invalid UTF-8, sentencepiece vocabularies decode the whole run around them as U+FFFD, and
here the valid characters of the run are kept.

The window is the algorithm of `tokenizers.decoders.DecodeStream`, which can neither be flushed nor go on after invalid bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders

MAX_TOKEN_ID = 2**31 - 1
REPLACEMENT = "�"
MAX_HELD_TOKENS = 8
"""A UTF-8 character has at most four bytes: if more tokens than that are held, most of them can be shown."""


class TokenDecoding:
    """What all sequences of one model share: how its tokenizer decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_ids = frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        self.needs_context = not isinstance(tokenizer.decoder, decoders.ByteLevel)
        """Byte-level tokens stand for their bytes wherever they are."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of ids; ids that the tokenizer does not have (a padded vocabulary) have none."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class BadTokenId(ValueError):
    """An id that no tokenizer can have."""


class TextStream:
    """The text of one sequence. `context_ids` are the last tokens of its prompt."""

    def __init__(self, decoding: TokenDecoding, *, skip_special_tokens: bool, context_ids: Sequence[int] = ()) -> None:
        self._decoding = decoding
        self._hidden = decoding.special_ids if skip_special_tokens else frozenset()
        self._context: list[int] = self._visible(context_ids) if decoding.needs_context else []
        self._context_text = decoding.text(self._context) if self._context else ""
        self._held: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Add ids; returns the text that is certain now. Raises `BadTokenId`, and then nothing was added."""
        self._held += self._visible(token_ids)
        if not self._held:
            return ""
        text = self._decoding.text(self._context + self._held)
        if text.endswith(REPLACEMENT):
            return self._settle(text)
        return self._show(text, len(self._held))

    def flush(self) -> str:
        """The text of everything held back; the sequence has ended."""
        if not self._held:
            return ""
        return self._show(self._decoding.text(self._context + self._held), len(self._held))

    def _visible(self, token_ids: Sequence[int]) -> list[int]:
        for token_id in token_ids:
            if not 0 <= token_id <= MAX_TOKEN_ID:
                raise BadTokenId(f"token id {token_id} can not be decoded")
        return [token_id for token_id in token_ids if token_id not in self._hidden]

    def _settle(self, text: str) -> str:
        """Show what later tokens can not change, once more is held than an incomplete character accounts for."""
        num_held = len(self._held)
        if num_held <= MAX_HELD_TOKENS:
            return ""
        for cut in range(num_held - 1, num_held - 4, -1):
            before = self._decoding.text(self._context + self._held[:cut])
            if not before.endswith(REPLACEMENT):
                return self._show(before, cut)
        for cut in range(num_held - 3, 0, -1):  # invalid bytes: a cut is safe if its sides decode apart as they do together
            before = self._decoding.text(self._context + self._held[:cut])
            if text == before + self._decoding.text(self._held[cut:]):
                return self._show(before, cut)
        return self._show(text, num_held)

    def _show(self, text: str, num_tokens: int) -> str:
        """Take `num_tokens` held ids as shown, where `text` is that of the context and these."""
        if text.startswith(self._context_text):
            piece = text[len(self._context_text) :]
        else:  # byte fallback shows a whole run of bytes as invalid when its end is: what was shown can not be taken back
            piece = self._decoding.text(self._held[:num_tokens])
        if self._decoding.needs_context and piece:
            self._context = self._held[:num_tokens]
            self._context_text = self._decoding.text(self._context)
        elif self._decoding.needs_context:
            self._context = self._context + self._held[:num_tokens]
        del self._held[:num_tokens]
        return piece
