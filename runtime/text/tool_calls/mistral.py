"""Mistral: `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`; since its eleventh tokenizer `[TOOL_CALLS]name[ARGS]{…}`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_arguments, read_call
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ()
TEMPLATE_MARKS = ("[TOOL_CALLS]",)
KEEPS_SPECIAL_TOKENS = True

BEGIN, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_BEGINS = Markers(BEGIN)
_NAME = re.compile(r"[^\[\]{}\s]*")


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while (yield from cursor.text_until(_BEGINS)):
        if (yield from cursor.blanks()) == "[":
            yield from _read_array(cursor, tools)
        else:
            yield from _read_call(cursor, tools)


def _read_array(cursor: Cursor, tools: Tools) -> Reading[None]:
    """The list of calls; each one that is complete stands, whatever follows."""
    is_call = yield from cursor.literal("[")
    while is_call:
        yield from cursor.blanks()
        is_call = yield from read_call(cursor, tools)
        cursor.settle(is_call)
        if is_call and not (yield from _is_next(cursor)):
            cursor.settle((yield from cursor.ending("]")))
            return
    cursor.settle(is_call)


def _is_next(cursor: Cursor) -> Reading[bool]:
    yield from cursor.blanks()
    return (yield from cursor.literal(","))


def _read_call(cursor: Cursor, tools: Tools) -> Reading[None]:
    name = yield from cursor.run(_NAME, MAX_NAME_CHARS)
    call_id: str | None = None
    if (yield from cursor.literal(CALL_ID)):
        call_id = yield from cursor.run(_NAME, MAX_NAME_CHARS)
    is_call = tools.has(name) and (yield from _begins_arguments(cursor))
    if is_call:
        cursor.begin_call(name, call_id)
        is_call = yield from read_arguments(cursor)
    cursor.settle(is_call)


def _begins_arguments(cursor: Cursor) -> Reading[bool]:
    """Early versions of the format have no marker before the arguments."""
    yield from cursor.literal(ARGUMENTS)
    return (yield from cursor.blanks()) == "{"


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [tags.tag(f'{{"name": "{tags.json_name(tool)}", "arguments": ', tags.arguments(tool), "}") for tool in tools]
    return tags.sequence(tags.const(f"{BEGIN} ["), tags.calls(calls, ", ", parallel=parallel), tags.const("]"))
