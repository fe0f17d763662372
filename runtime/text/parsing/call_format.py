"""What a module of `runtime.text.tool_calls` has: one format in which models write tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.output_format import OutputFormat
from runtime.text.parsing.structural_tag import Format
from runtime.text.parsing.tools import Tool, Tools


class CallFormat(OutputFormat, Protocol):
    def read(self, cursor: Cursor, tools: Tools) -> Reading[None]:
        """Read an output to its end."""
        ...

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> Format:
        """One call of one of `tools`, or, with `parallel`, one or more, and nothing else."""
        ...
