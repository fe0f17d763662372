"""How `/generate` writes log probabilities: lists of `[log probability, token id, text]`, kept encoded while they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from runtime.messages import TextRow, TokenLogprobs
from runtime.params import LogprobOptions

Triple = tuple[float | None, int, str | None]
Pairs = tuple[tuple[int, float], ...] | None


class NativeLogprobs:
    """The log probabilities of one sequence so far. `lone_token_only`: the prompt's are shown only if it is one token."""

    def __init__(self, options: LogprobOptions, *, returns_texts: bool, lone_token_only: bool) -> None:
        self._options = options
        self._returns_texts = returns_texts
        self._lone_token_only = lone_token_only
        self._prompt = b""
        self._num_tokens = 0
        self._tokens = bytearray()
        self._top = bytearray()
        self._chosen = bytearray()

    def add(self, row: TextRow) -> None:
        texts = self._texts(row.token_texts)
        if not self._prompt:
            self._prompt = self._encoded_prompt(row, texts)
        if row.logprobs is not None:
            self._add_tokens(row.logprobs, texts)

    def encoded(self) -> bytes:
        """The entries of `meta_info`, each after a comma."""
        parts = [
            self._prompt,
            b',"output_token_logprobs":[%b],"output_token_logprobs_length":%d' % (bytes(self._tokens[1:]), self._num_tokens),
        ]
        if self._options.num_top:
            parts.append(b',"output_top_logprobs":[%b]' % bytes(self._top[1:]))
        if self._options.token_ids:
            parts.append(b',"output_token_ids_logprobs":[%b]' % bytes(self._chosen[1:]))
        return b"".join(parts)

    def _add_tokens(self, found: TokenLogprobs, texts: Mapping[int, str]) -> None:
        self._num_tokens += len(found.token_ids)
        self._tokens += _after_commas(_triples(found, texts))
        self._top += _after_commas(_of_positions(found.top, texts))
        self._chosen += _after_commas(_of_positions(found.chosen, texts))

    def _encoded_prompt(self, row: TextRow, texts: Mapping[int, str]) -> bytes:
        found = row.prompt_logprobs
        if found is None or (self._lone_token_only and row.num_prompt_tokens != 1):
            found = TokenLogprobs((), ())
        entries: dict[str, Any] = {"input_token_logprobs": _triples(found, texts)}
        if self._options.num_top:
            entries["input_top_logprobs"] = _of_positions(found.top, texts)
        if self._options.token_ids:
            entries["input_token_ids_logprobs"] = _of_positions(found.chosen, texts)
        return b"," + orjson.dumps(entries)[1:-1]

    def _texts(self, token_texts: Mapping[int, bytes]) -> dict[int, str]:
        if not self._returns_texts:
            return {}
        return {token_id: text.decode("utf-8", "replace") for token_id, text in token_texts.items()}


def _triples(found: TokenLogprobs, texts: Mapping[int, str]) -> list[Triple]:
    return [(value, token_id, texts.get(token_id)) for value, token_id in zip(found.values, found.token_ids, strict=True)]


def _of_positions(positions: Sequence[Pairs], texts: Mapping[int, str]) -> list[list[Triple] | None]:
    """Null for the first token of a prompt, which has no alternatives."""
    return [
        None if pairs is None else [(value, token_id, texts.get(token_id)) for token_id, value in pairs] for pairs in positions
    ]


def _after_commas(items: Sequence[object]) -> bytes:
    return b"," + orjson.dumps(items)[1:-1] if items else b""
