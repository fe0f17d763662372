"""The content blocks of a message, and the events that tell how they grow. One block is open at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import InvalidRequest
from runtime.http.schema.turns import parsed_arguments
from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece

Event = tuple[str, dict[str, Any]]


@dataclass
class OutputBlock:
    """`empty` is the block before its first text, and `key` the name that the text has in it."""

    empty: dict[str, Any]
    key: str
    delta: tuple[str, str]
    """Type of the events that grow it, and the name of their text."""
    texts: list[str] = field(default_factory=list)

    def value(self) -> dict[str, Any]:
        text = "".join(self.texts)
        return {**self.empty, self.key: _input(text) if self.key == "input" else text}


class MessageBlocks:
    """Made from the pieces of one output."""

    def __init__(self) -> None:
        self._blocks: list[OutputBlock] = []
        self._is_open = False

    def content(self) -> list[dict[str, Any]]:
        return [block.value() for block in self._blocks]

    def add(self, piece: Piece) -> list[Event]:
        match piece:
            case TextPiece(text):
                return [*self._to({"type": "text", "text": ""}, "text", ("text_delta", "text")), self._grow(text)]
            case ReasoningPiece(text):
                thought = {"type": "thinking", "thinking": "", "signature": ""}
                return [*self._to(thought, "thinking", ("thinking_delta", "thinking")), self._grow(text)]
            case CallBegin(name=name, id=call_id):
                call: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                return [*self.close(), *self._begin(OutputBlock(call, "input", ("input_json_delta", "partial_json")))]
            case CallArguments(text=text):
                return [self._grow(text)]

    def close(self) -> list[Event]:
        """End the open block."""
        if not self._is_open:
            return []
        self._is_open = False
        return [("content_block_stop", {"index": len(self._blocks) - 1})]

    def _to(self, empty: dict[str, Any], key: str, delta: tuple[str, str]) -> list[Event]:
        """See to it that the open block is of this kind."""
        if self._is_open and self._blocks[-1].key == key:
            return []
        return [*self.close(), *self._begin(OutputBlock(empty, key, delta))]

    def _begin(self, block: OutputBlock) -> list[Event]:
        self._blocks.append(block)
        self._is_open = True
        return [("content_block_start", {"index": len(self._blocks) - 1, "content_block": block.empty})]

    def _grow(self, text: str) -> Event:
        block = self._blocks[-1]
        block.texts.append(text)
        kind, name = block.delta
        return "content_block_delta", {"index": len(self._blocks) - 1, "delta": {"type": kind, name: text}}


def _input(arguments: str) -> dict[str, Any]:
    """An object, as the API wants it; arguments that were cut off make none."""
    with contextlib.suppress(InvalidRequest):
        return parsed_arguments(arguments, "input")
    return {}
