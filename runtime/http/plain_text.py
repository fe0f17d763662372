"""The output of a model of which nothing is known: all of it is text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import InvalidRequest, Unsupported
from runtime.output_plan import OutputPlan, OutputWish
from runtime.pieces import Piece


class PlainText:
    """A grammar goes on as it is; tools are shown to the model, but its calls are not found."""

    def plan(self, wish: OutputWish) -> OutputPlan:
        """Raises `Unsupported` if a tool call is required."""
        if wish.tools and wish.tool_choice == "required":
            raise Unsupported("this server has no parser for tool calls", param="tool_choice")
        return OutputPlan(grammar=wish.grammar)

    def parse_calls(self, text: str, tools: Sequence[Mapping[str, Any]], parser: str | None = None) -> list[Piece]:
        """There is no format. Raises `InvalidRequest`."""
        raise InvalidRequest("this server has no parser for tool calls", param="tool_call_parser")

    def separate(self, text: str, parser: str | None = None) -> list[Piece]:
        """There is no format. Raises `InvalidRequest`."""
        raise InvalidRequest("this server has no parser for reasoning", param="reasoning_parser")


PLAIN_TEXT = PlainText()
"""It has no state, so one is enough."""
