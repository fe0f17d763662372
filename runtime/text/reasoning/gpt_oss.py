"""gpt-oss: the analysis channel is reasoning; the final channel, and commentary to nobody, are the answer.

Calls of functions stay in the text as they are, for the tool-call parser.
"""

from __future__ import annotations

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.harmony import (
    CHANNEL,
    CONTENT_ENDS,
    END,
    HEADER_BEGINS,
    MESSAGE,
    START,
    Header,
    begins_with_recipient,
    read_header,
)

ALIASES = ()
TEMPLATE_MARKS = ("<|channel|>", "analysis")
KEEPS_SPECIAL_TOKENS = True


def read(cursor: Cursor, starts_inside: bool | None) -> Reading[None]:
    """`starts_inside` means nothing here: the channels say it."""
    is_header = yield from begins_with_recipient(cursor)
    while is_header or (yield from cursor.until(HEADER_BEGINS, cursor.emit_text)):
        header = yield from read_header(cursor)
        is_header = (yield from _read_content(cursor, header)) == START
    cursor.spill()


def starts_inside(prompt: str) -> bool | None:
    return None


def before(answer: tags.Format, starts_inside: bool | None, is_call: bool) -> tags.Format:
    analysis = tags.sequence(tags.tag(f"{CHANNEL}analysis{MESSAGE}", tags.any_text(), END), tags.const(f"{START}assistant"))
    if is_call:
        return tags.sequence(tags.optional(analysis), answer)
    return tags.sequence(tags.optional(analysis), tags.const(f"{CHANNEL}final{MESSAGE}"), answer)


def _read_content(cursor: Cursor, header: Header | None) -> Reading[str]:
    """A message's content. Return the marker that ends it; that of the next message's beginning stays on the tape."""
    if header is None or header.function is not None:
        cursor.spill()
        marker = yield from cursor.until(CONTENT_ENDS, cursor.emit_text)
        if marker != START:
            cursor.spill()
        return marker
    cursor.drop()
    marker = yield from cursor.until(CONTENT_ENDS, cursor.emit_reasoning if header.channel == "analysis" else cursor.emit_text)
    if marker != START:
        cursor.drop()
    return marker
