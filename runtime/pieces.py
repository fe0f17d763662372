"""What a model's output is made of once it is parsed: plain text, reasoning, and tool calls.

The parsers in `runtime/text/tool_calls` and `runtime/text/reasoning` make these; the doors write them in their own formats.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class TextPiece(msgspec.Struct, frozen=True):
    """More of the answer."""

    text: str


class ReasoningPiece(msgspec.Struct, frozen=True):
    """More of the thinking before the answer."""

    text: str


class CallBegin(msgspec.Struct, frozen=True):
    """A tool call begins. Calls count from 0; `id` is set by formats that have one of their own."""

    index: int
    name: str
    id: str | None = None


class CallArguments(msgspec.Struct, frozen=True):
    """More of the JSON text of a call's arguments. All of them together are one JSON object."""

    index: int
    text: str


Piece = TextPiece | ReasoningPiece | CallBegin | CallArguments


class PieceParser(Protocol):
    """Parses one output, in linear time. How the output is cut into feeds does not change the pieces put together."""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that `text` completes; what may be the beginning of a marker is held back."""
        ...

    def close(self) -> list[Piece]:
        """What was held back. What is broken comes out as text: nothing that the model said is lost."""
        ...
