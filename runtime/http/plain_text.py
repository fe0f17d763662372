"""The output of a model of which nothing is known: all of it is text."""

from __future__ import annotations

from runtime.errors import Unsupported
from runtime.output_plan import OutputPlan, OutputWish


class PlainText:
    """A grammar goes on as it is; tools are shown to the model, but its calls are not found."""

    def plan(self, wish: OutputWish) -> OutputPlan:
        """Raises `Unsupported` if a tool call is required."""
        if wish.tools and wish.tool_choice == "required":
            raise Unsupported("this server has no parser for tool calls", param="tool_choice")
        return OutputPlan(grammar=wish.grammar)


PLAIN_TEXT = PlainText()
"""It has no state, so one is enough."""
