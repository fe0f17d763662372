"""How the OpenAI API writes log probabilities: per token with bytes for chats, in columns with offsets for completions."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from runtime.messages import TokenLogprobs

NEVER = -9999.0
"""OpenAI's number for a log probability of minus infinity, which JSON can not hold."""

NONE = TokenLogprobs((), ())


def chat_logprobs(logprobs: TokenLogprobs | None, texts: Mapping[int, bytes]) -> dict[str, Any]:
    """The `logprobs` of a choice. `texts` has the bytes of every token id that `logprobs` names."""
    known = logprobs or NONE
    tops = known.top or ((),) * len(known.token_ids)
    entries = zip(known.token_ids, known.values, tops, strict=True)
    content = [
        {**_entry(token_id, value, texts), "top_logprobs": [_entry(*likely, texts) for likely in top or ()]}
        for token_id, value, top in entries
    ]
    return {"content": content}


class CompletionLogprobs:
    """Writes the log probabilities of one choice, whose tokens come in order.

    An offset counts the characters of the text before a token. A token that ends inside of a character begins where that does.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def write(self, logprobs: TokenLogprobs | None, texts: Mapping[int, bytes]) -> dict[str, Any]:
        """`tokens`, `token_logprobs`, `top_logprobs` and `text_offset` of the next tokens."""
        known = logprobs or NONE
        return {
            "tokens": [_text(texts[token_id]) for token_id in known.token_ids],
            "token_logprobs": [None if value is None else max(value, NEVER) for value in known.values],
            "top_logprobs": [_likeliest(top, texts) for top in known.top],
            "text_offset": [self._advance(texts[token_id]) for token_id in known.token_ids],
        }

    def _advance(self, token: bytes) -> int:
        offset = self._num_chars
        self._num_chars += len(self._decoder.decode(token))
        return offset


def joined_columns(first: Mapping[str, list[Any]], second: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of `first`, followed by those of `second`."""
    return {name: column + second[name] for name, column in first.items()}


def _likeliest(top: tuple[tuple[int, float], ...] | None, texts: Mapping[int, bytes]) -> dict[str, float] | None:
    """Of tokens that read the same the likelier one counts."""
    if top is None:
        return None
    return {_text(texts[token_id]): max(value, NEVER) for token_id, value in reversed(top)}


def _entry(token_id: int, value: float | None, texts: Mapping[int, bytes]) -> dict[str, Any]:
    token = texts[token_id]
    return {"token": _text(token), "logprob": NEVER if value is None else max(value, NEVER), "bytes": list(token)}


def _text(token: bytes) -> str:
    return token.decode("utf-8", "replace")
