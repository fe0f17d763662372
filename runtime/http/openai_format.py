"""How `/v1/completions` and `/v1/chat/completions` write their replies, whole or as chunks of a stream.

A chunk is put together from prepared bytes around the text of its row, since there is one per token and client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from runtime.messages import Finish, TextRow

NO_FINISH = b',"logprobs":null,"finish_reason":null,"matched_stop":null}]'
ROLE = b'"delta":{"role":"assistant","content":"","reasoning_content":null}'
END = b'"delta":{"content":null,"reasoning_content":null}'


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of a reply share, and which token counts the client wants to see."""

    id: str
    created: int
    model: str
    n: int
    """Choices per prompt."""
    reports_cache: bool = False
    streams_usage: bool = False
    """One chunk with the counts of all choices at the end."""
    streams_running_usage: bool = False
    """Counts on every chunk, of its choice."""


class OpenAiFormat(ABC):
    """Keeps the newest row of each choice for the counts at the end of a stream."""

    object_name: str
    chunk_name: str

    def __init__(self, head: Head) -> None:
        self._head = head
        self._start = b"data: " + orjson.dumps(self._fixed(self.chunk_name))[:-1]
        self._last_rows: dict[int, TextRow] = {}

    def whole(self, rows: Sequence[TextRow]) -> dict[str, Any]:
        """The reply that is not a stream; `rows` hold all text of each choice."""
        choices = [
            {"index": index, **self.content(row.text), "logprobs": None, **_ending(row.finish)}
            for index, row in enumerate(rows)
        ]
        return {**self._fixed(self.object_name), "choices": choices, "usage": self._usage(rows, self._head.n)}

    def of_row(self, index: int, row: TextRow) -> bytes:
        is_first = index not in self._last_rows
        self._last_rows[index] = row
        return b"".join([self._chunk(index, choice, row) for choice in self.choices(row, is_first)])

    def at_end(self) -> bytes:
        if not self._head.streams_usage:
            return b""
        rows = [self._last_rows[index] for index in range(len(self._last_rows))]
        return self._start + b',"choices":[],"usage":' + orjson.dumps(self._usage(rows, self._head.n)) + b"}\n\n"

    @abstractmethod
    def content(self, text: str) -> dict[str, Any]:
        """The keys of a whole choice that hold its text."""

    @abstractmethod
    def choices(self, row: TextRow, is_first: bool) -> list[bytes]:
        """For each chunk that `row` makes: its choice, from after the index to the end of the list."""

    def _fixed(self, name: str) -> dict[str, Any]:
        return {"id": self._head.id, "object": name, "created": self._head.created, "model": self._head.model}

    def _chunk(self, index: int, choice: bytes, row: TextRow) -> bytes:
        return self._start + b',"choices":[{"index":%d,' % index + choice + self._running_usage(row) + b"}\n\n"

    def _running_usage(self, row: TextRow) -> bytes:
        if not self._head.streams_running_usage:
            return b""
        return b',"usage":' + orjson.dumps(self._usage([row], 1))

    def _usage(self, rows: Sequence[TextRow], n: int) -> dict[str, Any]:
        """`rows` are the last rows of all choices, `n` for each prompt; a prompt counts once."""
        num_prompt_tokens = sum(row.num_prompt_tokens for row in rows[::n])
        num_completion_tokens = sum(row.num_completion_tokens for row in rows)
        cached = {"cached_tokens": sum(row.num_cached_tokens for row in rows[::n])}
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "total_tokens": num_prompt_tokens + num_completion_tokens,
            "prompt_tokens_details": cached if self._head.reports_cache else None,
            "reasoning_tokens": 0,
        }


class ChatFormat(OpenAiFormat):
    """In a stream the role, each text and the ending are chunks of their own."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "reasoning_content": None}}

    def choices(self, row: TextRow, is_first: bool) -> list[bytes]:
        choices = [ROLE + NO_FINISH] if is_first else []
        if row.text:
            choices.append(b'"delta":{"content":' + orjson.dumps(row.text) + b',"reasoning_content":null}' + NO_FINISH)
        if row.finish is not None:
            choices.append(END + _finished(row.finish))
        return choices


class CompletionFormat(OpenAiFormat):
    """In a stream every chunk has text, and the last one also the ending."""

    object_name = "text_completion"
    chunk_name = "text_completion"

    def content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def choices(self, row: TextRow, is_first: bool) -> list[bytes]:
        if not row.text and row.finish is None:
            return []
        return [b'"text":' + orjson.dumps(row.text) + (_finished(row.finish) if row.finish else NO_FINISH)]


def _ending(finish: Finish | None) -> dict[str, Any]:
    return {
        "finish_reason": None if finish is None else finish.type,
        "matched_stop": None if finish is None else finish.matched,
    }


def _finished(finish: Finish) -> bytes:
    return b',"logprobs":null,' + orjson.dumps(_ending(finish))[1:] + b"]"
