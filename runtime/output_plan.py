"""How the doors meet the parsers of the served model's output, which the composition root gives them.

A door says what its client wants (`OutputWish`) and gets what that takes (`OutputPlan`): a parser for each choice, the grammar
that enforces it, and whether markers that are special tokens must stay in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from runtime.params import GrammarSpec
from runtime.pieces import Piece, PieceParser


class OutputWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants the output to be."""

    tools: tuple[dict[str, Any], ...] = ()
    """Those that may be called, in OpenAI's form `{"type": "function", "function": {"name", "description"?, "parameters"?,
    "strict"?}}`, checked and with different names."""
    tool_choice: Literal["auto", "required"] = "auto"
    """`required`: one call at least, and no other text. A client that names a tool requires one, with that tool alone."""
    parallel_tool_calls: bool = True
    """False: one call at most."""
    separates_reasoning: bool = True
    """False: reasoning stays in the text, with its markers."""
    template_arguments: dict[str, Any] = {}
    """The variables of the chat template, which may turn thinking on or off (`enable_thinking`, `thinking`)."""
    grammar: GrammarSpec | None = None
    """Of the answer, to which reasoning does not belong."""


class OutputPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a wish takes."""

    make_parser: Callable[[], PieceParser] | None = None
    """A new parser for one choice; None: all output is text."""
    grammar: GrammarSpec | None = None
    """Of the whole output."""
    keeps_special_tokens: bool = False
    """The parser looks for special tokens, so the text must have them."""


class OutputParsing(Protocol):
    """The parsers of the served model."""

    def plan(self, wish: OutputWish) -> OutputPlan:
        """Raises `RequestError` for what this model's format can not do."""
        ...

    def parse_calls(self, text: str, tools: Sequence[Mapping[str, Any]], parser: str | None = None) -> list[Piece]:
        """The tool calls of a whole output, and its text, by the format called `parser` or by the model's own.

        Raises `InvalidRequest` if there is none.
        """
        ...

    def separate(self, text: str, parser: str | None = None) -> list[Piece]:
        """Likewise, the reasoning and the answer of a whole output."""
        ...
