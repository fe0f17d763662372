"""GLM 4.5 to 4.7: `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…</tool_call>`, 4.5 with line ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.plain_arguments import PlainArguments
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ("glm", "glm47")
TEMPLATE_MARKS = ("<tool_call>", "<arg_key>", "<arg_value>")
KEEPS_SPECIAL_TOKENS = True

BEGIN, END = "<tool_call>", "</tool_call>"
KEY, KEY_END = "<arg_key>", "</arg_key>"
VALUE, VALUE_END = "<arg_value>", "</arg_value>"
_BEGINS = Markers(BEGIN)
_NAME = re.compile(r"[^<>\n]*")
_VALUE_ENDS = Markers(VALUE_END)


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while (yield from cursor.text_until(_BEGINS)):
        cursor.settle((yield from _read_call(cursor, tools)))


def _read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """What follows `<tool_call>`. False if it breaks."""
    yield from cursor.blanks()
    name = (yield from cursor.run(_NAME, MAX_NAME_CHARS)).strip()
    yield from cursor.blanks()
    if not tools.has(name) or not (yield from cursor.comes(KEY, END)):
        return False
    cursor.begin_call(name)
    arguments = PlainArguments(cursor, tools.types(name))
    while (yield from cursor.literal(KEY)):
        if not (yield from _read_argument(cursor, arguments)):
            return False
        yield from cursor.blanks()
    if not (yield from cursor.ending(END)):
        return False
    arguments.close()
    return True


def _read_argument(cursor: Cursor, arguments: PlainArguments) -> Reading[bool]:
    key = (yield from cursor.run(_NAME, MAX_NAME_CHARS)).strip()
    if not (yield from cursor.literal(KEY_END)):
        return False
    yield from cursor.blanks()
    if not (yield from cursor.literal(VALUE)) or not arguments.begin(key):
        return False
    cursor.drop()
    if not (yield from cursor.until(_VALUE_ENDS, arguments.add)):
        return False
    arguments.end()
    return True


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [tags.tag(f"{BEGIN}{tool.name}\n", tags.arguments(tool, "glm_xml"), f"\n{END}") for tool in tools]
    return tags.calls(calls, "\n", parallel=parallel)
