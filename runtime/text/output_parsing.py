"""What the doors ask of the served model's output formats: parsers, the grammars that enforce them, and parses of whole texts.

It owns the choice of formats, made at the start by the operator's flags or the model's chat template. The parsers themselves
are in `tool_calls` and `reasoning`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from runtime.errors import ConfigError, InvalidRequest
from runtime.output_plan import OutputPlan, OutputWish
from runtime.params import GrammarSpec
from runtime.pieces import Piece, PieceParser
from runtime.text.chat_template import ChatTemplate
from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.call_format import CallFormat
from runtime.text.parsing.chain import Chain, FirstCall, RequiredCalls
from runtime.text.parsing.cursor import StreamParser, joined
from runtime.text.parsing.formats import REASONING, TOOL_CALLS, call_format, chosen, reasoning_format
from runtime.text.parsing.reasoning_format import ReasoningFormat
from runtime.text.parsing.tools import Tools, tool_of

_F = TypeVar("_F", CallFormat, ReasoningFormat)

FALLBACK = "json-array"
"""What a model that has no format of its own is made to write when it must call a tool."""

MAX_REMEMBERED_PROMPTS = 256


class OutputParsing:
    """The formats of one model. Its chat template tells which they are, and whether its prompts begin the reasoning."""

    def __init__(
        self,
        tool_call_parser: str | None,
        reasoning_parser: str | None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        """The parsers are names, "auto" or "none". Raises `ConfigError` that lists the names there are."""
        template_source = None if chat_template is None else chat_template.source
        self.tool_call_parser = chosen(TOOL_CALLS, tool_call_parser, template_source)
        self.reasoning_parser = chosen(REASONING, reasoning_parser, template_source)
        self._calls = call_format(self.tool_call_parser) if self.tool_call_parser else None
        self._fallback = call_format(FALLBACK)
        self._reasoning = reasoning_format(self.reasoning_parser) if self.reasoning_parser else None
        self._chat_template = chat_template
        self._remembered: dict[bytes, bool | None] = {}

    def plan(self, wish: OutputWish) -> OutputPlan:
        """Raises `InvalidRequest` if a grammar has to apply after reasoning and can not be read."""
        calls = self._calls_for(wish)
        reasoning = self._reasoning if wish.separates_reasoning else None
        starts_inside = self._starts_inside(wish.template_arguments)
        formats = [format_ for format_ in (calls, reasoning) if format_ is not None]
        return OutputPlan(
            make_parser=partial(self._open, wish, calls, reasoning, starts_inside) if formats else None,
            grammar=self._grammar(wish, calls, starts_inside),
            keeps_special_tokens=any(format_.KEEPS_SPECIAL_TOKENS for format_ in formats),
        )

    def parse_calls(self, text: str, tools: Sequence[Mapping[str, Any]], parser: str | None = None) -> list[Piece]:
        """The pieces of a whole output, by the model's format or the named one. Raises `InvalidRequest` if there is none."""
        calls = self._calls if parser is None else _named(call_format, parser, "tool_call_parser")
        if calls is None:
            raise InvalidRequest("this model has no tool-call parser: name one", param="tool_call_parser")
        return _whole(_calls_parser(calls, tools), text)

    def separate(self, text: str, parser: str | None = None) -> list[Piece]:
        """Likewise, the reasoning and the answer. Raises `InvalidRequest` if there is no such parser."""
        reasoning = self._reasoning if parser is None else _named(reasoning_format, parser, "reasoning_parser")
        if reasoning is None:
            raise InvalidRequest("this model has no reasoning parser: name one", param="reasoning_parser")
        return _whole(StreamParser(lambda cursor: reasoning.read(cursor, None)), text)

    def _calls_for(self, wish: OutputWish) -> CallFormat | None:
        if not wish.tools:
            return None
        return self._calls or (self._fallback if wish.tool_choice == "required" else None)

    def _open(
        self,
        wish: OutputWish,
        calls: CallFormat | None,
        reasoning: ReasoningFormat | None,
        starts_inside: bool | None,
    ) -> PieceParser:
        """Reasoning first, then what is left of the text."""
        parsers: list[PieceParser] = []
        if reasoning is not None:
            parsers.append(StreamParser(lambda cursor: reasoning.read(cursor, starts_inside)))
        if calls is not None:
            parser = _calls_parser(calls, wish.tools)
            if wish.tool_choice == "required":
                parser = RequiredCalls(parser, has_text=self._reasoning is not None and reasoning is None)
            parsers.append(parser if wish.parallel_tool_calls else FirstCall(parser))
        return parsers[0] if len(parsers) == 1 else Chain(*parsers)

    def _grammar(self, wish: OutputWish, calls: CallFormat | None, starts_inside: bool | None) -> GrammarSpec | None:
        """Of the whole output: the model reasons before what it is made to write, whether that is separated or not."""
        is_call = calls is not None and wish.tool_choice == "required"
        if is_call and calls is not None:
            if wish.grammar is not None:
                raise InvalidRequest("a required tool call and another grammar can not both apply", param="tool_choice")
            answer = calls.grammar([tool_of(tool) for tool in wish.tools], wish.parallel_tool_calls)
        elif wish.grammar is None or self._reasoning is None or starts_inside is False:
            return wish.grammar
        else:
            answer = tags.format_of(wish.grammar)
        if self._reasoning is not None:
            answer = self._reasoning.before(answer, starts_inside, is_call)
        return tags.spec(answer)

    def _starts_inside(self, template_arguments: Mapping[str, Any]) -> bool | None:
        """Whether a prompt that is made with these variables ends with the beginning, or the end, of the reasoning."""
        if self._reasoning is None or self._chat_template is None:
            return None
        key = msgspec.json.encode(template_arguments)
        if key not in self._remembered:
            if len(self._remembered) == MAX_REMEMBERED_PROMPTS:
                self._remembered.clear()
            self._remembered[key] = self._try_prompt(self._reasoning, self._chat_template, template_arguments)
        return self._remembered[key]

    @staticmethod
    def _try_prompt(reasoning: ReasoningFormat, template: ChatTemplate, arguments: Mapping[str, Any]) -> bool | None:
        turns = ({"role": "user", "content": "?"},)
        try:
            prompt = template.render(turns, add_generation_prompt=True, continue_final_message=False, arguments=arguments)
        except InvalidRequest:
            return None  # the request's own prompt will say what is wrong
        return reasoning.starts_inside(prompt)


def _calls_parser(calls: CallFormat, definitions: Sequence[Mapping[str, Any]]) -> PieceParser:
    tools = Tools([tool_of(definition) for definition in definitions])
    return StreamParser(lambda cursor: calls.read(cursor, tools))


def _named(load: Callable[[str], _F], name: str, param: str) -> _F:
    try:
        return load(name)
    except ConfigError as error:
        raise InvalidRequest(str(error), param=param) from None


def _whole(parser: PieceParser, text: str) -> list[Piece]:
    return joined(parser.feed(text) + parser.close())
