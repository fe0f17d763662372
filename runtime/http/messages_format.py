"""How Anthropic's `/v1/messages` writes its replies: one message, or events that tell how it comes about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.http.message_blocks import Event, MessageBlocks
from runtime.http.parsed_output import ParsedOutput
from runtime.messages import Finish, TextRow

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class MessageHead(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    reports_cache: bool = False


class MessagesFormat:
    """For one sequence."""

    def __init__(self, head: MessageHead, output: ParsedOutput) -> None:
        self._head = head
        self._output = output
        self._blocks = MessageBlocks()
        self._has_begun = False

    def whole(self, rows: Sequence[TextRow]) -> bytes:
        """The reply that is not a stream."""
        for row in rows:
            self._advance(row)
        last = rows[-1]
        message = self._message(last, self._blocks.content())
        return msgspec.json.encode(message | self._ending(last.finish))

    def of_row(self, index: int, row: TextRow) -> bytes:
        """There is one sequence, so `index` is 0."""
        events: list[Event] = [] if self._has_begun else [("message_start", {"message": self._message(row, [])})]
        self._has_begun = True
        events += self._advance(row)
        if row.finish is not None:
            events += [("message_delta", {"delta": self._ending(row.finish), "usage": self._usage(row)}), ("message_stop", {})]
        return b"".join(map(_write, events))

    def at_end(self) -> bytes:
        return b""

    def _advance(self, row: TextRow) -> list[Event]:
        events: list[Event] = []
        for piece in self._output.feed(row):
            events += self._blocks.add(piece)
        return events + self._blocks.close() if row.finish is not None else events

    def _message(self, row: TextRow, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(row),
        }

    def _usage(self, row: TextRow) -> dict[str, Any]:
        """As Anthropic counts: what came from the cache, if the operator lets clients know of it, is not input."""
        num_cached_tokens = row.num_cached_tokens if self._head.reports_cache else 0
        return {
            "input_tokens": row.num_prompt_tokens - num_cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": num_cached_tokens,
            "output_tokens": row.num_completion_tokens,
        }

    def _ending(self, finish: Finish | None) -> dict[str, Any]:
        if finish is None or finish.type == "abort":
            return {"stop_reason": None, "stop_sequence": None}
        if finish.type == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if isinstance(finish.matched, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.matched}
        return {"stop_reason": "tool_use" if self._output.calls else "end_turn", "stop_sequence": None}


def _write(event: Event) -> bytes:
    name, fields = event
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode({"type": name, **fields}) + b"\n\n"
