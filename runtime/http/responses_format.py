"""How `/v1/responses` writes its replies: one object, or events with a running number that tell how it comes about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from runtime.errors import Failure, InvalidRequest
from runtime.http.openai_logprobs import chat_logprobs
from runtime.http.output_items import Event, OutputItems, Status
from runtime.http.parsed_output import ParsedOutput
from runtime.http.schema.turns import parsed_arguments
from runtime.messages import Finish, TextRow


class ResponseHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a response before its output."""

    id: str
    created: int
    model: str
    echo: dict[str, Any]
    reports_cache: bool = False


class ResponsesFormat:
    """`response` is the object as it is at any time; it is complete once a row with a finish, or a failure, was written."""

    def __init__(self, head: ResponseHead, output: ParsedOutput, new_id: Callable[[str], str]) -> None:
        self._head = head
        self._output = output
        self._items = OutputItems(new_id)
        self._num_events = 0
        self._last_row: TextRow | None = None
        self._status = "in_progress"
        self._error: dict[str, Any] | None = None

    @property
    def response_id(self) -> str:
        return self._head.id

    @property
    def is_finished(self) -> bool:
        return self._status != "in_progress"

    def response(self) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "status": self._status,
            "background": False,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "model": head.model,
            "output": self._items.fields() if self.is_finished else [],
            "service_tier": "default",
            "truncation": "disabled",
            "usage": self._usage() if self.is_finished else None,
            **head.echo,
        }

    def turn(self) -> dict[str, Any]:
        """The output as a turn of the conversation that goes on."""
        turn: dict[str, Any] = {"role": "assistant", "content": self._output.text}
        if self._output.reasoning:
            turn["reasoning_content"] = self._output.reasoning
        if self._output.calls:
            turn["tool_calls"] = [_turn_call(call.id, call.name, call.arguments) for call in self._output.calls]
        return turn

    def whole(self, rows: Sequence[TextRow]) -> dict[str, Any]:
        """The reply that is not a stream."""
        for row in rows:
            self._advance(row)
        return self.response()

    def of_row(self, index: int, row: TextRow) -> bytes:
        """There is one sequence, so `index` is 0."""
        first = [self._whole_event("created"), self._whole_event("in_progress")] if self._last_row is None else []
        events = first + self._advance(row)
        if row.finish is not None:
            events.append(self._whole_event("incomplete" if self._status in ("incomplete", "cancelled") else "completed"))
        return b"".join(map(self._write, events))

    def at_end(self) -> bytes:
        return b""

    def of_failure(self, failure: Failure) -> bytes:
        """The last events of a stream that breaks off; clients raise the second one."""
        self._items.close("incomplete")
        self._status = "failed"
        self._error = {"code": failure.code or failure.type, "message": failure.message}
        facts = {"code": failure.code, "message": failure.message, "param": failure.param}
        error = {**facts, "error": {**facts, "type": failure.type}}
        return self._write(self._whole_event("failed")) + self._write(("error", error))

    def _advance(self, row: TextRow) -> list[Event]:
        self._last_row = row
        logprobs = [] if row.logprobs is None else chat_logprobs(row.logprobs, row.token_texts)["content"]
        events: list[Event] = []
        for piece in self._output.feed(row):
            events += self._items.add(piece, logprobs)
            logprobs = []
        if row.finish is not None:
            self._status = _status(row.finish)
            last: Status = "completed" if self._status == "completed" else "incomplete"
            events += self._items.close(last)
        return events

    def _whole_event(self, name: str) -> Event:
        return f"response.{name}", {"response": self.response()}

    def _write(self, event: Event) -> bytes:
        name, fields = event
        data = msgspec.json.encode({"type": name, "sequence_number": self._num_events, **fields})
        self._num_events += 1
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def _usage(self) -> dict[str, Any] | None:
        row = self._last_row
        if row is None:
            return None
        num_cached_tokens = row.num_cached_tokens if self._head.reports_cache else 0
        return {
            "input_tokens": row.num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": num_cached_tokens, "cache_write_tokens": 0},
            "output_tokens": row.num_completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._output.num_reasoning_tokens},
            "total_tokens": row.num_prompt_tokens + row.num_completion_tokens,
        }


def _status(finish: Finish) -> str:
    return {"stop": "completed", "length": "incomplete", "abort": "cancelled"}[finish.type]


def _turn_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Arguments that were cut off are no object, so the template gets their text."""
    value: Any = arguments
    with contextlib.suppress(InvalidRequest):
        value = parsed_arguments(arguments, "arguments")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": value}}
