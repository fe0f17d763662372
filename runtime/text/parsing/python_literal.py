"""Python's literals as JSON, as they come: strings, numbers, constants, lists, and dicts with string keys.

Nothing is evaluated. Plain values are rewritten in runs, by patterns that match only what is complete; the rest, and what is
cut, character by character. Both come to the same.
"""

from __future__ import annotations

import math
import re

import msgspec

from runtime.text.parsing.cursor import Cursor, Reading

MAX_DEPTH = 32
MAX_NUMBER_CHARS = 400

_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
}
_NUM_DIGITS = {"x": 2, "u": 4, "U": 8}
_WORD = re.compile(r"[\w.+-]*")
_PLAIN = {quote: re.compile(rf"[^\\{quote}]*") for quote in "'\""}
_HEX = re.compile(r"[0-9a-fA-F]*")
_QUOTES = ("'", '"')

_STRING = r"""'[^'\\]*+'|"[^"\\]*+\""""
_SCALAR = rf"(?:{_STRING}|0|-?+[1-9][0-9]{{0,14}}+|True|False|None)"
_VALUE = re.compile(rf"\s*+({_SCALAR})(?=\s*+[,\])}}])")
_ITEMS = {
    "[": re.compile(rf"(?:\s*+{_SCALAR}(?:\s*+,|(?=\s*+\])))++"),
    "{": re.compile(rf"(?:\s*+(?:{_STRING})\s*+:\s*+{_SCALAR}(?:\s*+,|(?=\s*+}})))++"),
}
_EACH = {"[": re.compile(_SCALAR), "{": re.compile(rf"({_STRING})\s*+:\s*+({_SCALAR})")}


class PythonLiteral:
    """Reads one literal and emits it as arguments of the call that began last."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def read(self, depth: int = 0) -> Reading[bool]:
        """False if it breaks, which its unread text tells no more."""
        character = yield from self._cursor.blanks()
        if depth == 0 and (scalar := self._cursor.match(_VALUE)):
            self._cursor.emit_arguments(_as_json(scalar))
            is_read = True
        elif character in _QUOTES:
            is_read = yield from self._read_string()
        elif character and character in "[{" and depth < MAX_DEPTH:
            is_read = yield from self._read_items(character, depth + 1)
        else:
            is_read = yield from self._read_word()
        if is_read:
            self._cursor.drop()
        return is_read

    def _read_items(self, opening: str, depth: int) -> Reading[bool]:
        """A list or a dict; a comma may follow its last item."""
        closing = "]" if opening == "[" else "}"
        self._step(opening)
        separator = ""
        while (yield from self._cursor.blanks()) != closing:
            self._cursor.emit_arguments(separator)
            separator = ", "
            if self._read_plain_items(opening):
                continue
            if opening == "{" and not (yield from self._read_key()):
                return False
            if not (yield from self.read(depth)):
                return False
            if (yield from self._cursor.blanks()) != closing and not (yield from self._cursor.literal(",")):
                return False
        self._step(closing)
        return True

    def _read_plain_items(self, opening: str) -> bool:
        """Those that can be read at once, each with the comma behind it or before the closing bracket."""
        run = self._cursor.match(_ITEMS[opening])
        if not run:
            return False
        found = _EACH[opening].findall(run)
        written = map(_as_json, found) if opening == "[" else (f"{_as_json(key)}: {_as_json(value)}" for key, value in found)
        self._cursor.emit_arguments(", ".join(written))
        self._cursor.drop()
        if run[-1] == ",":
            self._cursor.record(run[len(run[:-1].rstrip()) :])
        return True

    def _read_key(self) -> Reading[bool]:
        if (yield from self._cursor.blanks()) not in _QUOTES or not (yield from self._read_string()):
            return False
        yield from self._cursor.blanks()
        if not (yield from self._cursor.literal(":")):
            return False
        self._cursor.emit_arguments(": ")
        return True

    def _read_word(self) -> Reading[bool]:
        word = yield from self._cursor.run(_WORD, MAX_NUMBER_CHARS)
        written = _CONSTANTS.get(word) or _as_number(word)
        if written is None:
            return False
        self._cursor.emit_arguments(written)
        return True

    def _read_string(self) -> Reading[bool]:
        quote = yield from self._cursor.peek()
        ending = quote * 3 if (yield from self._cursor.comes(quote * 3)) else quote
        self._cursor.advance(self._cursor.position + len(ending))
        self._cursor.emit_arguments('"')
        while not (yield from self._cursor.comes(ending)):
            if not (yield from self._read_characters(quote)):
                return False
        self._cursor.advance(self._cursor.position + len(ending))
        self._cursor.emit_arguments('"')
        return True

    def _read_characters(self, quote: str) -> Reading[bool]:
        """Some of what is in a string. False at the end of the output, and for an escape that means no character."""
        plain = self._cursor.match(_PLAIN[quote])
        if plain:
            self._emit(plain)
            return True
        character = yield from self._cursor.peek()
        self._cursor.advance(self._cursor.position + len(character))
        if character == "\\":
            return (yield from self._read_escape())
        if character:
            self._emit(character)
        return bool(character)

    def _read_escape(self) -> Reading[bool]:
        character = yield from self._cursor.peek()
        self._cursor.advance(self._cursor.position + len(character))
        if character in _NUM_DIGITS:
            digits = yield from self._cursor.run(_HEX, _NUM_DIGITS[character])
            self._cursor.drop()
            return len(digits) == _NUM_DIGITS[character] and self._emit_code_point(int(digits, 16))
        if character:
            self._emit(_ESCAPES.get(character, "\\" + character))
        return bool(character)

    def _emit_code_point(self, code_point: int) -> bool:
        is_character = code_point < 0xD800 or 0xDFFF < code_point <= 0x10FFFF
        if is_character:
            self._emit(chr(code_point))
        return is_character

    def _emit(self, text: str) -> None:
        self._cursor.emit_arguments(msgspec.json.encode(text).decode()[1:-1])

    def _step(self, character: str) -> None:
        """Read a bracket, which JSON has too."""
        self._cursor.advance(self._cursor.position + 1)
        self._cursor.emit_arguments(character)


def _as_json(scalar: str) -> str:
    """Of a plain one: a string without escapes, a whole number or a constant."""
    if scalar[0] in _QUOTES:
        return msgspec.json.encode(scalar[1:-1]).decode()
    return _CONSTANTS.get(scalar, scalar)


def _as_number(word: str) -> str | None:
    """As JSON writes it; None if it is no number that JSON has."""
    if not re.fullmatch(r"[+-]?(\d|\.\d)[\w.+-]*", word, re.ASCII):
        return None
    try:
        return str(int(word, 0))
    except ValueError:
        pass
    try:
        number = float(word)
    except ValueError:
        return None
    return repr(number) if math.isfinite(number) else None
