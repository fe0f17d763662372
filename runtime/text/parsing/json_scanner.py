"""A scanner of one JSON value (RFC 8259), which may come in any number of parts: where it ends, and whether it is one at all.

It builds no values and goes back over nothing: the text itself is what its users pass on. What is plain is read in runs, by
patterns that match only what is complete; the rest, and what is cut, character by character. Both come to the same.
"""

from __future__ import annotations

import re

MAX_DEPTH = 128
MIN_RUN_CHARS = 8
"""In less there is hardly anything complete."""

_B = r"[ \t\n\r]*+"
_STRING = r'"[^"\\\x00-\x1f]*+"'
_NUMERAL = r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+(?=[ \t\n\r,\]}])"
_SCALAR = rf"(?:{_STRING}|{_NUMERAL}|true|false|null)"

_MEMBER = _STRING + _B + ":" + _B + _SCALAR
_LIST = rf"\[{_B}(?:{_SCALAR}(?:{_B},{_B}{_SCALAR})*+{_B})?+\]"
_OBJECT = rf"{{{_B}(?:{_MEMBER}(?:{_B},{_B}{_MEMBER})*+{_B})?+}}"
_FLAT = rf"(?:{_SCALAR}|{_LIST}|{_OBJECT})"
"""Without an escape, and without a container inside of a container."""

_BLANK = re.compile(_B)
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*+')
_VALUE = re.compile(_B + _FLAT)
_KEY = re.compile(_B + _STRING + _B + ":")
_ITEMS = re.compile(rf"(?:{_B},{_B}{_FLAT})++")
_MEMBERS = re.compile(rf"(?:{_B},{_B}{_STRING}{_B}:{_B}{_FLAT})++")

_AFTER_NUMBER = frozenset({"zero", "digits", "fraction", "exponent"})
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}

_NUMBER: dict[str, dict[str, str]] = {
    "minus": {"0": "zero", **dict.fromkeys("123456789", "digits")},
    "zero": {".": "dot", "e": "e", "E": "e"},
    "digits": {**dict.fromkeys("0123456789", "digits"), ".": "dot", "e": "e", "E": "e"},
    "dot": dict.fromkeys("0123456789", "fraction"),
    "fraction": {**dict.fromkeys("0123456789", "fraction"), "e": "e", "E": "e"},
    "e": {"+": "sign", "-": "sign", **dict.fromkeys("0123456789", "exponent")},
    "sign": dict.fromkeys("0123456789", "exponent"),
    "exponent": dict.fromkeys("0123456789", "exponent"),
}
"""From each state inside a number to the next, by character."""

_BETWEEN = frozenset({"value", "first item", "first key", "key", "colon", "after"})
"""States in which blank space means nothing."""

_RUNS: dict[str, tuple[re.Pattern[str] | None, str]] = {
    "value": (_VALUE, "after"),
    "first item": (_VALUE, "after"),
    "key": (_KEY, "value"),
    "first key": (_KEY, "value"),
    "after": (None, "after"),
}
"""From states inside of a container in which another may be opened: what may be read at once, and the state after it. None: the
container decides."""


class JsonScanner:
    """Give `scan` the parts; when `is_done` or `is_broken` it reads no further."""

    def __init__(self) -> None:
        self.is_done = False
        self.is_broken = False
        self._state = "value"
        self._open: list[str] = []
        self._is_key = False
        self._rest = ""
        """What is left of a literal, or of a \\u escape, where any digits stand for four."""

    def scan(self, text: str, position: int) -> int:
        """Where in `text` the reading ends that began at `position`: at its end, behind the value, or at what breaks it."""
        size = len(text)
        while position < size and not self.is_done and not self.is_broken:
            end = self._run(text, position)
            position = end if end > position else position + self._step(text[position])
        return position

    def close(self) -> None:
        """The text has ended: a number at the top has ended with it, everything else is broken."""
        self.is_done = self.is_done or (not self._open and self._state in _AFTER_NUMBER)
        self.is_broken = not self.is_done

    def _run(self, text: str, position: int) -> int:
        """Read what is plain from here on; return where it ends."""
        state, found = self._state, None
        if state == "string":
            found = _PLAIN.match(text, position)
        elif len(text) - position >= MIN_RUN_CHARS and state in _RUNS and 0 < len(self._open) < MAX_DEPTH:
            pattern, following = _RUNS[state]
            pattern = pattern or (_MEMBERS if self._open[-1] == "{" else _ITEMS)
            found = pattern.match(text, position)
            self._state = following if found else state
        if not found and state in _BETWEEN:
            found = _BLANK.match(text, position)
        return found.end() if found else position

    def _step(self, character: str) -> int:
        """Go on by one character; return how many were read: 0 where it breaks or belongs to what comes after a number."""
        state = self._state
        if state == "string":
            return self._in_string(character)
        if state in _NUMBER:
            return self._in_number(character)
        if state in ("value", "first item"):
            return self._begin_value(character)
        if state == "after":
            return self._after_value(character)
        return self._elsewhere(character)

    def _in_string(self, character: str) -> int:
        if character == "\\":
            self._state = "escape"
        elif character == '"':
            self._state = "colon" if self._is_key else "after"
            self._end_value()
        else:
            return self._break()
        return 1

    def _in_number(self, character: str) -> int:
        following = _NUMBER[self._state].get(character)
        if following:
            self._state = following
            return 1
        if self._state not in _AFTER_NUMBER:
            return self._break()
        self._state = "after"
        self._end_value()
        return 0

    def _begin_value(self, character: str) -> int:
        if character == '"':
            self._begin_string(is_key=False)
        elif character in "{[":
            if len(self._open) == MAX_DEPTH:
                return self._break()
            self._open.append(character)
            self._state = "first key" if character == "{" else "first item"
        elif character in _LITERALS:
            self._state, self._rest = "literal", _LITERALS[character]
        elif character == "]" and self._state == "first item":
            self._end_container()
        else:
            following = "minus" if character == "-" else _NUMBER["minus"].get(character)
            if following is None:
                return self._break()
            self._state = following
        return 1

    def _after_value(self, character: str) -> int:
        container = self._open[-1]
        if character == ",":
            self._state = "key" if container == "{" else "value"
        elif character == ("}" if container == "{" else "]"):
            self._end_container()
        else:
            return self._break()
        return 1

    def _elsewhere(self, character: str) -> int:
        state = self._state
        if state in ("key", "first key") and character == '"':
            self._begin_string(is_key=True)
        elif state == "first key" and character == "}":
            self._end_container()
        elif state == "colon" and character == ":":
            self._state = "value"
        elif state == "escape" and character in _ESCAPES:
            self._state = "string"
        elif state == "escape" and character == "u":
            self._state, self._rest = "unicode", "0000"
        elif state == "unicode" and character in _HEX:
            self._rest = self._rest[1:]
            self._state = "unicode" if self._rest else "string"
        elif state == "literal" and character == self._rest[0]:
            self._in_literal()
        else:
            return self._break()
        return 1

    def _in_literal(self) -> None:
        self._rest = self._rest[1:]
        if not self._rest:
            self._state = "after"
            self._end_value()

    def _begin_string(self, *, is_key: bool) -> None:
        self._state, self._is_key = "string", is_key

    def _end_container(self) -> None:
        self._open.pop()
        self._state = "after"
        self._end_value()

    def _end_value(self) -> None:
        self.is_done = not self._open

    def _break(self) -> int:
        self.is_broken = True
        return 0
