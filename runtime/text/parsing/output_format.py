"""What the modules of all output formats have, those of tool calls and those of reasoning.

The modules are functions and constants, not classes; protocols are what the loader takes them for.
"""

from __future__ import annotations

from typing import Protocol


class OutputFormat(Protocol):
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
