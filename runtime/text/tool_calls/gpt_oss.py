"""gpt-oss: messages in the commentary channel to `functions.NAME`, whose content is the arguments.

Messages in other channels are left to the reasoning parser of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.harmony import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    HEADER_BEGINS,
    MESSAGE,
    RETURN,
    START,
    begins_with_recipient,
    read_header,
)
from runtime.text.parsing.json_call import read_arguments
from runtime.text.parsing.tools import Tool, Tools

ALIASES = ()
TEMPLATE_MARKS = (CHANNEL, "functions.")
KEEPS_SPECIAL_TOKENS = True


def read(cursor: Cursor, tools: Tools) -> Reading[None]:
    if (yield from begins_with_recipient(cursor)):
        cursor.settle((yield from _read_message(cursor, tools)))
    while (yield from cursor.text_until(HEADER_BEGINS)):
        cursor.settle((yield from _read_message(cursor, tools)))


def _read_message(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """A call, from within its header. False if it is none."""
    header = yield from read_header(cursor)
    if header is None or header.function is None or not tools.has(header.function):
        return False
    cursor.begin_call(header.function)
    return (yield from read_arguments(cursor)) and (yield from _read_end(cursor))


def _read_end(cursor: Cursor) -> Reading[bool]:
    """The end of a call is one of the tokens that end an output, so it is often not there."""
    yield from cursor.blanks()
    if (yield from cursor.comes(END, RETURN)):
        return (yield from cursor.literal(END)) or (yield from cursor.literal(RETURN))
    return (yield from cursor.comes(START)) or (yield from cursor.ending(CALL))


def grammar(tools: Sequence[Tool], parallel: bool) -> tags.Format:
    calls = [
        tags.tag(f"{CHANNEL}commentary to=functions.{tool.name} {CONSTRAIN}json{MESSAGE}", tags.arguments(tool), CALL)
        for tool in tools
    ]
    return tags.calls(calls, f"{START}assistant", parallel=parallel)
