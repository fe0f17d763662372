"""The bytes of single tokens, as log probabilities show them: what a token adds to a text, without the text around it.

Byte-level vocabularies spell each byte as a character, sentencepiece ones spell a space as "▁" and a byte as "<0xE2>". A token
may be a part of a character, so these are bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tokenizers import Tokenizer

from runtime.messages import TokenLogprobs

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_VISIBLE_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""GPT-2 spells these as themselves, and the others as the characters from 256 on, in order."""


class TokenBytes:
    """Remembers what it was asked: a vocabulary is finite, and few of its tokens are likely."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
        self._added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        """Empty for an id that the tokenizer does not have: models pad their vocabulary."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def of(self, *logprobs: TokenLogprobs | None) -> dict[int, bytes]:
        """The bytes of every id that `logprobs` name."""
        return {token_id: self[token_id] for part in logprobs if part is not None for token_id in _named_ids(part)}

    def _read(self, token_id: int) -> bytes:
        token = self._added.get(token_id)
        if token is not None:
            return token.encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._is_byte_level and all(character in _BYTE_OF for character in token):
            return bytes(_BYTE_OF[character] for character in token)
        byte = _BYTE.fullmatch(token)
        return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


def _named_ids(logprobs: TokenLogprobs) -> Iterable[int]:
    yield from logprobs.token_ids
    for rankings in (logprobs.top, logprobs.chosen):
        for ranking in rankings:
            for token_id, _ in ranking or ():
                yield token_id


def _byte_alphabet() -> dict[str, int]:
    hidden = [byte for byte in range(256) if byte not in _VISIBLE_BYTES]
    return {chr(byte): byte for byte in _VISIBLE_BYTES} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
