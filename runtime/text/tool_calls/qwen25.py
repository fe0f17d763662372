"""Qwen 2.5 and 3, Hermes: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_call
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.tools import Tool, Tools

ALIASES = ("qwen", "hermes")
TEMPLATE_MARKS = ("<tool_call>",)
KEEPS_SPECIAL_TOKENS = False

BEGIN, END = "<tool_call>", "</tool_call>"
_BEGINS = Markers(BEGIN)


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while (yield from cursor.text_until(_BEGINS)):
        yield from cursor.blanks()
        is_call = (yield from read_call(cursor, tools)) and (yield from cursor.ending(END))
        cursor.settle(is_call)


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [
        tags.tag(f'{BEGIN}\n{{"name": "{tags.json_name(tool)}", "arguments": ', tags.arguments(tool), f"}}\n{END}")
        for tool in tools
    ]
    return tags.calls(calls, "\n", parallel=parallel)
