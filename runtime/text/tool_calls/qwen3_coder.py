"""Qwen3 Coder: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.plain_arguments import PlainArguments
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ("qwen3_5",)
TEMPLATE_MARKS = ("<tool_call>", "<function=", "<parameter=")
KEEPS_SPECIAL_TOKENS = False

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_BEGINS = Markers(BEGIN, FUNCTION)
_NAME = re.compile(r"[^<>\n]*")
_VALUE_END = Markers(PARAMETER_END)


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while marker := (yield from cursor.text_until(_BEGINS)):
        if marker == BEGIN:
            yield from cursor.blanks()
        is_call = marker == FUNCTION or (yield from cursor.literal(FUNCTION))
        is_call = is_call and (yield from _read_call(cursor, tools))
        if is_call and marker == BEGIN:
            is_call = yield from cursor.ending(END)
        cursor.settle(is_call)


def _read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """What follows `<function=`. False if it breaks."""
    name = (yield from cursor.run(_NAME, MAX_NAME_CHARS)).strip()
    if not tools.has(name) or not (yield from cursor.literal(">")):
        return False
    cursor.begin_call(name)
    arguments = PlainArguments(cursor, tools.types(name))
    yield from cursor.blanks()
    while (yield from cursor.literal(PARAMETER)):
        if not (yield from _read_parameter(cursor, arguments)):
            return False
        yield from cursor.blanks()
    if not (yield from cursor.ending(FUNCTION_END)):
        return False
    arguments.close()
    return True


def _read_parameter(cursor: Cursor, arguments: PlainArguments) -> Reading[bool]:
    key = (yield from cursor.run(_NAME, MAX_NAME_CHARS)).strip()
    if not (yield from cursor.literal(">")) or not arguments.begin(key):
        return False
    cursor.drop()
    yield from cursor.literal("\n")
    value = _Value(arguments)
    if not (yield from cursor.until(_VALUE_END, value.add)):
        return False
    arguments.end()
    return True


class _Value:
    """Leaves out the line end before the end of a value."""

    def __init__(self, arguments: PlainArguments) -> None:
        self._arguments = arguments
        self._held = ""

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        self._arguments.add(text.removesuffix("\n"))


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [
        tags.tag(f"{BEGIN}\n{FUNCTION}{tool.name}>\n", tags.arguments(tool, "qwen_xml"), f"\n{FUNCTION_END}\n{END}")
        for tool in tools
    ]
    return tags.calls(calls, "\n", parallel=parallel)
