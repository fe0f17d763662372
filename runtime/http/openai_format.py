"""What the replies of `/v1/completions` and `/v1/chat/completions` have in common, whole or as chunks of a stream.

A chunk is put together from prepared bytes around the text of its row, since there is one per token and client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from runtime.messages import Finish, TextRow

NO_FINISH = b',"logprobs":null,"finish_reason":null,"matched_stop":null}]'


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of a reply share, and which token counts the client wants to see."""

    id: str
    created: int
    model: str
    n: int
    """Sequences per prompt."""
    reports_cache: bool = False
    streams_usage: bool = False
    """One chunk with the counts of all choices at the end."""
    streams_running_usage: bool = False
    """Counts on every chunk, of its choice."""


class OpenAiFormat(ABC):
    """Keeps the newest row of each choice for the counts at the end of a stream."""

    object_name: str
    chunk_name: str
    joins_rows = True
    """Whether it takes what came between two reads as one row."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._start = b"data: " + orjson.dumps(self._fixed(self.chunk_name))[:-1]
        self._last_rows: dict[int, TextRow] = {}

    def whole(self, results: Sequence[Sequence[TextRow]]) -> dict[str, Any]:
        """The reply that is not a stream, of all rows of each sequence."""
        choices = [{"index": index, **self.choice(index, rows)} for index, rows in enumerate(results)]
        return self.reply(choices, [rows[-1] for rows in results])

    def reply(self, choices: Sequence[dict[str, Any]], last_rows: Sequence[TextRow]) -> dict[str, Any]:
        """`choices` with all that is around them."""
        usage = self._usage(dict(enumerate(last_rows)), self._head.n)
        return {**self._fixed(self.object_name), "choices": choices, "usage": usage}

    def of_row(self, index: int, row: TextRow) -> bytes:
        is_first = index not in self._last_rows
        self._last_rows[index] = row
        return b"".join([self._chunk(index, choice, row) for choice in self.choices(index, row, is_first)])

    def at_end(self) -> bytes:
        if not self._head.streams_usage:
            return b""
        rows = dict(sorted(self._last_rows.items()))
        return self._start + b',"choices":[],"usage":' + orjson.dumps(self._usage(rows, self._head.n)) + b"}\n\n"

    @abstractmethod
    def choice(self, index: int, rows: Sequence[TextRow]) -> dict[str, Any]:
        """A whole choice, without its index."""

    @abstractmethod
    def choices(self, index: int, row: TextRow, is_first: bool) -> list[bytes]:
        """For each chunk that `row` makes: its choice, from after the index to the end of the list."""

    def num_reasoning_tokens(self, index: int) -> int:
        """Of one choice."""
        return 0

    def _fixed(self, name: str) -> dict[str, Any]:
        return {"id": self._head.id, "object": name, "created": self._head.created, "model": self._head.model}

    def _chunk(self, index: int, choice: bytes, row: TextRow) -> bytes:
        return self._start + b',"choices":[{"index":%d,' % index + choice + self._running_usage(index, row) + b"}\n\n"

    def _running_usage(self, index: int, row: TextRow) -> bytes:
        if not self._head.streams_running_usage:
            return b""
        return b',"usage":' + orjson.dumps(self._usage({index: row}, 1))

    def _usage(self, last_rows: Mapping[int, TextRow], n: int) -> dict[str, Any]:
        """`last_rows` by choice, `n` for each prompt; a prompt counts once."""
        rows = list(last_rows.values())
        num_prompt_tokens = sum(row.num_prompt_tokens for row in rows[::n])
        num_completion_tokens = sum(row.num_completion_tokens for row in rows)
        cached = {"cached_tokens": sum(row.num_cached_tokens for row in rows[::n])}
        num_reasoning_tokens = sum(map(self.num_reasoning_tokens, last_rows))
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "total_tokens": num_prompt_tokens + num_completion_tokens,
            "prompt_tokens_details": cached if self._head.reports_cache else None,
            "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
            "reasoning_tokens": num_reasoning_tokens,
        }


def ending(finish: Finish | None) -> dict[str, Any]:
    """The last keys of a choice."""
    return {
        "finish_reason": None if finish is None else finish.type,
        "matched_stop": None if finish is None else finish.matched,
    }


def finished(finish: Finish) -> bytes:
    """The same in a chunk, with no log probabilities before them."""
    return b',"logprobs":null,' + orjson.dumps(ending(finish))[1:] + b"]"
