"""Kimi K2: a section of calls, each with an id that holds its name, `functions.NAME:INDEX`, and its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_call import read_arguments
from runtime.text.parsing.markers import Markers
from runtime.text.parsing.sections import NAME, read_section
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tool, Tools

ALIASES = ()
TEMPLATE_MARKS = ("<|tool_calls_section_begin|>",)
KEEPS_SPECIAL_TOKENS = True

SECTION_BEGIN, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
BEGIN, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
PREFIX = "functions."
_BEGINS = Markers(SECTION_BEGIN, BEGIN)


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    while marker := (yield from cursor.text_until(_BEGINS)):
        yield from read_section(cursor, lambda: _read_call(cursor, tools), BEGIN, SECTION_END, is_open=marker == BEGIN)


def _read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """What follows the beginning of a call. False if it breaks."""
    yield from cursor.blanks()
    call_id = yield from cursor.run(NAME, MAX_NAME_CHARS)
    yield from cursor.blanks()
    name, colon, index = call_id.removeprefix(PREFIX).rpartition(":")
    if not (colon and index.isdecimal() and tools.has(name)) or not (yield from cursor.literal(ARGUMENTS)):
        return False
    cursor.begin_call(name, call_id)
    return (yield from read_arguments(cursor)) and (yield from cursor.ending(END))


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [
        tags.tag(
            f"{BEGIN}{PREFIX}{tool.name}:",
            tags.sequence(tags.regex("[0-9]+"), tags.const(ARGUMENTS), tags.arguments(tool)),
            END,
        )
        for tool in tools
    ]
    return tags.sequence(tags.const(SECTION_BEGIN), tags.calls(calls, "", parallel=parallel), tags.const(SECTION_END))
