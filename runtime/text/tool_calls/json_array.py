"""A JSON array `[{"name": …, "parameters": {…}}, …]`: what a model without a format of its own is made to write."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_call
from runtime.text.parsing.tools import Tool, Tools

ALIASES = ()
TEMPLATE_MARKS = ()
KEEPS_SPECIAL_TOKENS = False


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    """Only at the beginning of the output."""
    yield from cursor.blanks()
    is_call = yield from cursor.literal("[")
    while is_call:
        yield from cursor.blanks()
        is_call = yield from read_call(cursor, tools)
        cursor.settle(is_call)
        yield from cursor.blanks()
        if is_call and not (yield from cursor.literal(",")):
            cursor.settle((yield from cursor.ending("]")))
            is_call = False
    yield from cursor.rest_as_text()


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [tags.tag(f'{{"name": "{tags.json_name(tool)}", "parameters": ', tags.arguments(tool), "}") for tool in tools]
    return tags.sequence(tags.const("["), tags.calls(calls, ", ", parallel=parallel), tags.const("]"))
