"""Arguments that are written as they are, one by one between markers: turned into JSON as they come.

A value that must be a string streams. Any other is kept until its end, and is JSON if it reads as JSON of a type that the
tool's schema allows; else it is a string too.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runtime.text.parsing.cursor import Cursor


class PlainArguments:
    """The arguments of the call that began last, of which `types` are the JSON types that the schema allows."""

    def __init__(self, cursor: Cursor, types: Mapping[str, frozenset[str]]) -> None:
        self._cursor = cursor
        self._types = types
        self._keys: set[str] = set()
        self._held: list[str] = []
        self._is_string = False
        self._allowed: frozenset[str] = frozenset()
        cursor.emit_arguments("{")

    def begin(self, key: str) -> bool:
        """A value begins. False if its key was there before."""
        if key in self._keys:
            return False
        self._cursor.emit_arguments((", " if self._keys else "") + _quoted(key) + ": ")
        self._keys.add(key)
        self._allowed = self._types.get(key, frozenset())
        self._is_string = self._allowed == {"string"}
        if self._is_string:
            self._cursor.emit_arguments('"')
        return True

    def add(self, text: str) -> None:
        """More of the value."""
        if self._is_string:
            self._cursor.emit_arguments(_quoted(text)[1:-1])
        else:
            self._held.append(text)
            self._cursor.record(text)

    def end(self) -> None:
        """The value is complete."""
        value, self._held = "".join(self._held), []
        self._cursor.drop()
        self._cursor.emit_arguments('"' if self._is_string else _as_json(value, self._allowed))

    def close(self) -> None:
        """There are no more."""
        self._cursor.emit_arguments("}")


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _as_json(text: str, allowed: frozenset[str]) -> str:
    """`text` if it is JSON of an allowed type, else a string; Python's names of the constants are taken too."""
    stripped = text.strip()
    stripped = {"True": "true", "False": "false", "None": "null"}.get(stripped, stripped)
    try:
        kind = _type_of(msgspec.json.decode(stripped))
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return _quoted(text)
    is_allowed = not allowed or kind in allowed or (kind == "integer" and "number" in allowed)
    return stripped if is_allowed or "string" not in allowed else _quoted(text)


def _type_of(value: object) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")
