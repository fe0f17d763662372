"""DeepSeek V3 and R1: a section of calls, each `function`, a separator, the name, and the arguments in a fence of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_arguments
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.sections import NAME, read_section
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ()
TEMPLATE_MARKS = ("<｜tool▁calls▁begin｜>", "```json")
KEEPS_SPECIAL_TOKENS = True

SECTION_BEGIN, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE_BEGIN, FENCE_END = "```json", "```"
_BEGINS = Markers(SECTION_BEGIN, BEGIN)


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while marker := (yield from cursor.text_until(_BEGINS)):
        yield from read_section(cursor, lambda: _read_call(cursor, tools), BEGIN, SECTION_END, is_open=marker == BEGIN)


def _read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """What follows the beginning of a call. False if it breaks."""
    if not (yield from cursor.literal("function")) or not (yield from cursor.literal(SEPARATOR)):
        return False
    name = yield from cursor.run(NAME, MAX_NAME_CHARS)
    yield from cursor.blanks()
    if not tools.has(name) or not (yield from cursor.literal(FENCE_BEGIN)):
        return False
    cursor.begin_call(name)
    if not (yield from read_arguments(cursor)):
        return False
    return (yield from cursor.ending(FENCE_END)) and (yield from cursor.ending(END))


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [
        tags.tag(f"{BEGIN}function{SEPARATOR}{tool.name}\n{FENCE_BEGIN}\n", tags.arguments(tool), f"\n{FENCE_END}{END}")
        for tool in tools
    ]
    return tags.sequence(tags.const(SECTION_BEGIN), tags.calls(calls, "\n", parallel=parallel), tags.const(SECTION_END))
