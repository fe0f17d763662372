"""Llama 3.1 to 3.3: `<|python_tag|>` and JSON objects `{"name": …, "parameters": {…}}` with `;` between them.

The models leave the tag out more often than not: an output that begins with such an object is a call too.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_call
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.tools import Tool, Tools

ALIASES = ("llama",)
TEMPLATE_MARKS = ('{"name": function name, "parameters"',)
KEEPS_SPECIAL_TOKENS = True

_BEGINS = Markers("<|python_tag|>")


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    if (yield from cursor.blanks()) == "{":
        yield from _read_calls(cursor, tools)
    while (yield from cursor.text_until(_BEGINS)):
        yield from _read_calls(cursor, tools)


def _read_calls(cursor: Cursor, tools: Tools) -> Reading[None]:
    is_call, is_next = True, True
    while is_call and is_next:
        yield from cursor.blanks()
        is_call = yield from read_call(cursor, tools)
        cursor.settle(is_call)
        is_next = (yield from cursor.blanks()) == "{" or (yield from cursor.literal(";"))


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [tags.tag(f'{{"name": "{tags.json_name(tool)}", "parameters": ', tags.arguments(tool), "}") for tool in tools]
    return tags.sequence(tags.const("<|python_tag|>"), tags.calls(calls, "; ", parallel=parallel))
