"""Harmony, the format of gpt-oss: messages `<|start|>assistant<|channel|>CHANNEL<|message|>CONTENT<|end|>`.

The prompt ends with `<|start|>assistant`, so the first message begins with what comes after that. A header may name a
recipient, ` to=functions.NAME`, before or in its channel. See https://cookbook.openai.com/articles/openai-harmony.
"""

from __future__ import annotations

import re

import msgspec

from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.markers import Markers

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
CONSTRAIN, RETURN, CALL, END = "<|constrain|>", "<|return|>", "<|call|>", "<|end|>"
FUNCTIONS = "functions."
MAX_HEADER_CHARS = 512

HEADER_BEGINS = Markers(START, CHANNEL)
CONTENT_ENDS = Markers(END, RETURN, CALL, START)
_PART = re.compile(r"[^<]*")
_RECIPIENT = " to="


class Header(msgspec.Struct, frozen=True):
    """`channel` is analysis, commentary or final; `function` is the function a message calls."""

    channel: str
    function: str | None = None


def begins_with_recipient(cursor: Cursor) -> Reading[bool]:
    """Whether the output begins with a header's recipient: then the header's first marker is still to come."""
    return (yield from cursor.comes(_RECIPIENT))


def read_header(cursor: Cursor) -> Reading[Header | None]:
    """A header up to and with `<|message|>`, of which a beginning may have been read. None if it is none."""
    text = ""
    while len(text) <= MAX_HEADER_CHARS:
        text += yield from cursor.run(_PART, MAX_HEADER_CHARS + 1 - len(text))
        if (yield from cursor.literal(MESSAGE)):
            return _parse(text)
        if (yield from cursor.literal(CHANNEL)):
            text += CHANNEL
        elif (yield from cursor.literal(CONSTRAIN)):
            text += " "
        else:
            return None
    return None


def _parse(text: str) -> Header | None:
    """`text` is a header without its first marker: "analysis", " to=functions.f<|channel|>commentary json", …"""
    role, _, channel = text.rpartition(CHANNEL)
    words = channel.split()
    if not words:
        return None
    recipients = [word.removeprefix("to=") for word in (*role.split(), *words) if word.startswith("to=")]
    calls = [name.removeprefix(FUNCTIONS) for name in recipients if name.startswith(FUNCTIONS)]
    return Header(words[0], calls[0] if calls else None)
