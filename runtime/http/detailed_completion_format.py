"""How `/v1/completions` writes replies with log probabilities, or with their prompts before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from runtime.http.completion_format import CompletionFormat
from runtime.http.openai_format import Head, ending
from runtime.http.openai_logprobs import CompletionLogprobs, joined_columns
from runtime.http.reply import joined
from runtime.messages import TextRow
from runtime.params import Prompt, TextPrompt


class DetailedCompletionFormat(CompletionFormat):
    """`echoes` are the prompts to repeat, one for each sequence; a prompt of ids is read from its log probabilities."""

    def __init__(self, head: Head, *, has_logprobs: bool, echoes: Sequence[Prompt] | None) -> None:
        super().__init__(head)
        self._has_logprobs = has_logprobs
        self._echoes = echoes
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def choice(self, index: int, rows: Sequence[TextRow]) -> dict[str, Any]:
        return self._parts(index, joined(list(rows)), is_first=True)

    def choices(self, index: int, row: TextRow, is_first: bool) -> list[bytes]:
        parts = self._parts(index, row, is_first)
        if not parts["text"] and row.finish is None and row.logprobs is None:
            return []
        return [orjson.dumps(parts)[1:] + b"]"]

    def _parts(self, index: int, row: TextRow, is_first: bool) -> dict[str, Any]:
        """Text, log probabilities and ending of what `row` adds to its choice."""
        echo = self._echo(index, row) if is_first and self._echoes is not None else ""
        logprobs = self._columns(index, row) if self._has_logprobs else None
        return {"text": echo + row.text, "logprobs": logprobs, **ending(row.finish)}

    def _echo(self, index: int, row: TextRow) -> str:
        assert self._echoes is not None, "nobody asked for the prompt"
        prompt = self._echoes[index]
        if isinstance(prompt, TextPrompt):
            return prompt.text
        token_ids = row.prompt_logprobs.token_ids if row.prompt_logprobs is not None else ()
        return b"".join(row.token_texts[token_id] for token_id in token_ids).decode("utf-8", "replace")

    def _columns(self, index: int, row: TextRow) -> dict[str, Any]:
        """The prompt's tokens come first, if they are there."""
        writer = self._logprobs.setdefault(index, CompletionLogprobs())
        if row.prompt_logprobs is None:
            return writer.write(row.logprobs, row.token_texts)
        prompt = writer.write(row.prompt_logprobs, row.token_texts)
        return joined_columns(prompt, writer.write(row.logprobs, row.token_texts))
