"""What a module of `runtime.text.reasoning` has: one way in which models mark their reasoning."""

from __future__ import annotations

from typing import Protocol

from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.output_format import OutputFormat
from runtime.text.parsing.structural_tag import Format


class ReasoningFormat(OutputFormat, Protocol):
    def read(self, cursor: Cursor, starts_inside: bool | None) -> Reading[None]:
        """Read an output to its end. `starts_inside`: the prompt has begun the reasoning; None: as it usually is."""
        ...

    def starts_inside(self, prompt: str) -> bool | None:
        """Whether a prompt has begun the reasoning (True) or ended it (False); None: neither."""
        ...

    def before(self, answer: Format, starts_inside: bool | None, is_call: bool) -> Format:
        """Reasoning, and then `answer`, which is a tool call or not."""
        ...
