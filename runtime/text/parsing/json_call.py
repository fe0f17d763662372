"""Tool calls written as JSON objects: `{"name": …, "arguments": {…}}`, the keys in any order, whose arguments stream.

Everything up to the name stays on the tape, so that an object that is no call comes out as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.json_scanner import JsonScanner
from runtime.text.parsing.tools import MAX_NAME_CHARS, Tools

KEYS = frozenset({"name", "arguments", "parameters", "id", "type"})
"""An object with another key before its call began is no call."""


def read_value(cursor: Cursor, sink: Callable[[str], None]) -> Reading[bool]:
    """Give `sink` the text of the next JSON value, as it comes. False if it breaks; what breaks it is unread."""
    scanner = JsonScanner()
    while True:
        end = scanner.scan(cursor.text, cursor.position)
        if end > cursor.position:
            sink(cursor.advance(end))
        if cursor.is_closed:
            scanner.close()
        if scanner.is_done or scanner.is_broken:
            return scanner.is_done
        yield


def read_arguments(cursor: Cursor) -> Reading[bool]:
    """The arguments of the call that has begun: a JSON object. False if it breaks."""
    if (yield from cursor.blanks()) != "{":
        return False
    cursor.drop()
    return (yield from read_value(cursor, cursor.emit_arguments))


def read_call(cursor: Cursor, tools: Tools) -> Reading[bool]:
    """One call. False if it breaks, or is none: then the tape has what no piece shows."""
    if not (yield from cursor.literal("{")):
        return False
    call = _Call(cursor, tools)
    while True:
        key = yield from _read_key(cursor)
        if key is None or not (yield from call.read(key)):
            return False
        separator = yield from cursor.blanks()
        if separator == "" and call.is_complete:
            return True
        if separator not in ("}", ","):
            return False
        cursor.record(cursor.advance(cursor.position + 1))
        if separator == "}":
            return call.end()
        yield from cursor.blanks()


class _Call:
    """What is known of a call while its object is read."""

    def __init__(self, cursor: Cursor, tools: Tools) -> None:
        self._cursor = cursor
        self._tools = tools
        self._name: str | None = None
        self._has_begun = False
        self._arguments: list[str] | None = None
        """Those that came before the name; None if none have come at all."""
        self.is_complete = False

    def read(self, key: str) -> Reading[bool]:
        """The value of `key`. False if it breaks, or if the object can be no call."""
        if key == "name":
            return (yield from self._read_name())
        if key in ("arguments", "parameters") and not self.is_complete:
            return (yield from self._read_arguments())
        if key not in KEYS and not self._has_begun:
            return False
        return (yield from read_value(self._cursor, self._cursor.record))

    def end(self) -> bool:
        """The object has ended. A call without arguments has empty ones."""
        if self._name is None:
            return False
        if not self.is_complete:
            self._begin("{}")
        self._cursor.drop()
        return True

    def _read_name(self) -> Reading[bool]:
        name = None if self._name is not None else (yield from read_string(self._cursor, MAX_NAME_CHARS))
        if name is None or not self._tools.has(name):
            return False
        self._name = name
        if self._arguments is not None:
            self._begin("".join(self._arguments))
        return True

    def _read_arguments(self) -> Reading[bool]:
        if self._name is not None:
            self._begin()
            self.is_complete = yield from read_arguments(self._cursor)
            return self.is_complete
        if self._arguments is not None or (yield from self._cursor.blanks()) != "{":
            return False
        self._arguments = []
        return (yield from read_value(self._cursor, self._keep))

    def _keep(self, text: str) -> None:
        assert self._arguments is not None
        self._arguments.append(text)
        self._cursor.record(text)

    def _begin(self, arguments: str | None = None) -> None:
        assert self._name is not None
        self._has_begun = True
        self._cursor.begin_call(self._name)
        if arguments is not None:
            self._cursor.emit_arguments(arguments)
            self.is_complete = True


def read_string(cursor: Cursor, limit: int) -> Reading[str | None]:
    """A JSON string of at most `limit` characters as they are written; None if it is none, or longer."""
    if not (yield from cursor.literal('"')):
        return None
    written = ""
    is_escaped = False
    while len(written) <= limit:
        character = yield from cursor.peek()
        cursor.record(cursor.advance(cursor.position + len(character)))
        if character == "" or (character == '"' and not is_escaped):
            return _decoded(written) if character else None
        is_escaped = character == "\\" and not is_escaped
        written += character
    return None


def _decoded(written: str) -> str | None:
    try:
        return msgspec.json.decode(f'"{written}"'.encode(), type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _read_key(cursor: Cursor) -> Reading[str | None]:
    """A key and its colon."""
    yield from cursor.blanks()
    key = yield from read_string(cursor, MAX_NAME_CHARS)
    yield from cursor.blanks()
    if key is None or not (yield from cursor.literal(":")):
        return None
    yield from cursor.blanks()
    return key
