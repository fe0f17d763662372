"""What a module of `runtime.text.tool_calls` has: one format in which models write tool calls.

The modules are functions and constants, not classes; this protocol is what the loader takes them for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.structural_tag import Format
from runtime.text.parsing.tools import Tool, Tools


class CallFormat(Protocol):
    @property
    def ALIASES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """Other public names."""
        ...

    @property
    def TEMPLATE_MARKS(self) -> tuple[str, ...]:  # noqa: N802
        """Strings that are all in the chat template of a model that writes this format; none: never found by itself."""
        ...

    @property
    def KEEPS_SPECIAL_TOKENS(self) -> bool:  # noqa: N802
        """Whether its markers are special tokens, which a text usually is without."""
        ...

    def read(self, cursor: Cursor, tools: Tools) -> Reading[None]:
        """Read an output to its end."""
        ...

    def grammar(self, tools: Sequence[Tool], parallel: bool) -> Format:
        """One call of one of `tools`, or, with `parallel`, one or more, and nothing else."""
        ...
