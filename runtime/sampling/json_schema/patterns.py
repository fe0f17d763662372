"""Regular expressions as JSON Schema and Python have them, rewritten for an engine with Rust's syntax.

The same characters mean different things in the two: `[a&&b]` is a set of three characters or an intersection, `[[]` a bracket
or the start of a nested set. `translate` parses what it is given and writes each part anew, so that nothing reaches the engine
that was not understood. What needs memory or looks around (back references, look-ahead, `\\b`) is refused.
"""

from __future__ import annotations

MAX_PATTERN_CHARS = 4096
MAX_NESTING = 200
MAX_SIZE = 20_000
CLASS_LETTERS = frozenset("dDwWsS")
PYTHON_CLASSES = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r" \t\n\r\f\x{b}",
    "D": r"[^\d]",
    "W": r"[^\w\p{N}]",
    "S": r"[^\s\x{1c}-\x{1f}]",
}
"""Each within what Python's `re` takes for it, as the inside of a set or as a set."""
WIDER_CLASSES = {
    "d": r"\p{Nd}",
    "w": r"\w\p{N}",
    "s": r"\s\x{1c}-\x{1f}",
    "D": r"[^\x{30}-9]",
    "W": r"[^\x{30}-9A-Za-z_]",
    "S": r"[^ \t\n\r\f\x{b}]",
}
"""Each around what Python's `re` takes for it, so that a set which leaves it out is within Python's. No part can be mistaken
for what xgrammar reads, which has no such classes."""
CONTROL_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
SPECIAL_CHARS = frozenset("\\.+*?()|[]{}^$")
SYNTAX_CHARS = frozenset("\\.+*?()|[]{}^$#&-~/")


class PatternError(ValueError):
    """What is wrong with a pattern, or what in it can not be done."""


def translate(pattern: str, *, is_whole: bool, hex_escape: str = "\\x{{{:x}}}") -> str:
    """The pattern in Rust's syntax. Raises `PatternError`.

    `is_whole`: it has to match the whole text, so that `^` at its start and `$` at its end say nothing and are left out; its
    classes are Python's, less what is not ASCII. Otherwise they are as in JSON Schema, which the engine sees to.
    `hex_escape` formats the code of a character that is not written as it is.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"it is longer than {MAX_PATTERN_CHARS} characters")
    parser = _Parser(pattern, is_whole, hex_escape)
    written = parser.alternatives(depth=0)
    if not parser.is_at_end:
        raise PatternError("it has a ')' too many")
    return written


class _Parser:
    """Recursive descent, writing as it reads."""

    def __init__(self, text: str, is_whole: bool, hex_escape: str) -> None:
        self._text = text
        self._hex_escape = hex_escape
        self._at = 0
        self._size = 0
        self._is_whole = is_whole

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._text)

    def alternatives(self, depth: int) -> str:
        if depth > MAX_NESTING:
            raise PatternError(f"its groups are nested deeper than {MAX_NESTING}")
        written = [self._sequence(depth)]
        while self._takes("|"):
            written.append(self._sequence(depth))
        return "|".join(written)

    def _sequence(self, depth: int) -> str:
        parts: list[str] = []
        while not self.is_at_end and self._peek() not in "|)":
            if self._peek() in "^$":
                parts.append(self._anchor(is_first=not parts, depth=depth))
            else:
                parts.append(self._quantified(depth))
        return "".join(parts)

    def _anchor(self, *, is_first: bool, depth: int) -> str:
        """`^` and `$`; at the outer edges of a pattern for a whole text they say nothing."""
        anchor = self._next()
        is_edge = is_first if anchor == "^" else self.is_at_end or self._peek() == "|"
        if not self.is_at_end and self._peek() in "*+?{":
            raise PatternError(f"{anchor!r} is repeated")
        if not self._is_whole:
            return anchor
        if depth > 0 or not is_edge:
            raise PatternError(f"{anchor!r} is supported only at the edges")
        return ""

    def _atom(self, depth: int) -> str:
        self._grow(1)
        char = self._next()
        if char == "(":
            return self._group(depth)
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise PatternError(f"{char!r} repeats nothing")
        return "." if char == "." else self._literal(char)

    def _group(self, depth: int) -> str:
        if self._takes("?"):
            if self._takes("P<") or self._takes_name_start():
                self._skip_name()
            elif not self._takes(":"):
                raise PatternError("look-around and flags, (?…), are not supported")
        written = self.alternatives(depth + 1)
        if not self._takes(")"):
            raise PatternError("a '(' is not closed")
        return f"(?:{written})"

    def _takes_name_start(self) -> bool:
        is_name = self._text[self._at : self._at + 1] == "<" and self._text[self._at + 1 : self._at + 2] not in ("=", "!", "")
        self._at += is_name
        return is_name

    def _skip_name(self) -> None:
        end = self._text.find(">", self._at)
        if end < 0 or not self._text[self._at : end].isidentifier():
            raise PatternError("a group's name is not one")
        self._at = end + 1

    def _quantified(self, depth: int) -> str:
        """An atom and how often. Laziness changes what a search finds first, not which texts match."""
        size_before = self._size
        atom = self._atom(depth)
        count = self._quantifier(size_before)
        if count is None:
            return atom
        self._takes("?")
        if self._takes("+"):
            raise PatternError("possessive quantifiers are not supported")
        if not self.is_at_end and (self._peek() in "*+?" or (self._peek() == "{" and self._braces() is not None)):
            raise PatternError("a repetition is repeated")
        return atom + count

    def _quantifier(self, size_before: int) -> str | None:
        """How often, or None for once; what is repeated counts as often for the size."""
        for char in "*+?":
            if self._takes(char):
                return char
        found = self._braces()
        if found is None:
            return None
        self._at, low, high = found
        if high is not None and (high < low):
            raise PatternError("a repetition's counts are in the wrong order")
        self._grow((self._size - size_before) * (max(low, high or 0) - 1))
        return f"{{{low}}}" if high == low else f"{{{low},{'' if high is None else high}}}"

    def _braces(self) -> tuple[int, int, int | None] | None:
        """End, low and high of `{low,high}` at this place; None if the brace is an ordinary character."""
        end = self._text.find("}", self._at)
        if self.is_at_end or self._peek() != "{" or end < 0 or end - self._at > 12:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not (low + high).isascii() or not all(part.isdigit() for part in (low, high) if part) or not low + high:
            return None
        return end + 1, int(low or 0), int(high) if high else (None if comma else int(low))

    def _escape(self) -> str:
        """An escape outside of a set."""
        if self.is_at_end:
            raise PatternError("it ends in a backslash")
        char = self._peek()
        if char in "bBAzZG" or char in "123456789k":
            raise PatternError(f"\\{char} is not supported")
        if char in CLASS_LETTERS:
            return self._class()
        if char in "pP":
            return self._property()
        return self._literal(self._escaped_char())

    def _property(self) -> str:
        """`\\p{Letter}`: Unicode's names are the same everywhere."""
        letter = self._next()
        end = self._text.find("}", self._at)
        name = self._text[self._at + 1 : end]
        if not self._takes("{") or end < 0 or not name.replace("=", "").replace("_", "").isalnum():
            raise PatternError(f"\\{letter} needs a name in braces")
        self._at = end + 1
        return f"\\{letter}{{{name}}}"

    def _escaped_char(self) -> str:
        """The one character that an escape stands for; the backslash is read already."""
        char = self._next()
        if char in CONTROL_LETTERS:
            if char == "0" and not self.is_at_end and self._peek().isdigit():
                raise PatternError("octal escapes are not supported")
            return CONTROL_LETTERS[char]
        if char in "xu":
            return self._hex(2 if char == "x" else 4)
        if char == "c" or char.isalnum():
            raise PatternError(f"\\{char} is not supported")
        return char

    def _hex(self, num_digits: int) -> str:
        digits = self._text[self._at : self._at + num_digits]
        if len(digits) < num_digits or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise PatternError("a hexadecimal escape has too few digits")
        self._at += num_digits
        code = int(digits, 16)
        if 0xD800 <= code <= 0xDFFF:
            raise PatternError("surrogates are not supported")
        return chr(code)

    def _set(self) -> str:
        is_negated = self._takes("^")
        written = "[^" if is_negated else "["
        num_parts = 0
        if self._is_whole and self._takes("]"):  # the first one is a character in Python
            written, num_parts = written + "\\]", 1
        while not self._takes("]"):
            if self.is_at_end:
                raise PatternError("a '[' is not closed")
            written += self._set_part(is_negated=is_negated)
            num_parts += 1
        if num_parts == 0:
            raise PatternError("a set is empty")
        return written + "]"

    def _set_part(self, *, is_negated: bool) -> str:
        """One character, class or range of a set."""
        low = self._set_item(is_negated=is_negated)
        follows_range = self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "")
        if not follows_range:
            return low if len(low) > 1 else self._literal(low)
        self._at += 1
        high = self._set_item(is_negated=is_negated)
        if len(low) > 1 or len(high) > 1:
            raise PatternError("a range of a set ends in a class")
        if high < low:
            raise PatternError("a range of a set is in the wrong order")
        return f"{self._literal(low)}-{self._literal(high)}"

    def _set_item(self, *, is_negated: bool) -> str:
        """A single character as it is, or a class in the engine's syntax, which is longer."""
        char = self._next()
        if char != "\\":
            return char
        if self.is_at_end:
            raise PatternError("it ends in a backslash")
        if self._peek() in CLASS_LETTERS:
            return self._class_in_set(is_negated=is_negated)
        if self._peek() in "pP":
            return self._property()
        if self._takes("b"):
            return "\b"
        return self._escaped_char()

    def _class(self) -> str:
        """`\\d` and the like; the backslash is read already."""
        letter = self._next()
        if not self._is_whole:
            return "\\" + letter
        return PYTHON_CLASSES[letter] if letter.isupper() else f"[{PYTHON_CLASSES[letter]}]"

    def _class_in_set(self, *, is_negated: bool) -> str:
        letter = self._next()
        if not self._is_whole:
            return "\\" + letter
        return (WIDER_CLASSES if is_negated else PYTHON_CLASSES)[letter]

    def _literal(self, char: str) -> str:
        """A character that stands for itself, inside of sets and outside."""
        if char in SYNTAX_CHARS:
            return "\\" + char
        return char if char.isprintable() and char.isascii() else self._hex_escape.format(ord(char))

    def _grow(self, size: int) -> None:
        self._size += max(size, 0)
        if self._size > MAX_SIZE:
            raise PatternError(f"it is larger than {MAX_SIZE} characters when its repetitions are written out")

    def _peek(self) -> str:
        return self._text[self._at]

    def _next(self) -> str:
        if self.is_at_end:
            raise PatternError("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _takes(self, expected: str) -> bool:
        is_there = self._text.startswith(expected, self._at)
        self._at += len(expected) * is_there
        return is_there


def literal_texts(pattern: str) -> list[str] | None:
    """The only texts that `^text$` or `^(one|other)$` matches; None for any other pattern."""
    inner = pattern[1:-1]
    if pattern[:1] != "^" or pattern[-1:] != "$" or len(pattern) < 2:
        return None
    is_group = inner[:1] == "(" and inner[-1:] == ")"
    texts = inner[1:-1].removeprefix("?:").split("|") if is_group else [inner]
    return None if any(set(text) & SPECIAL_CHARS for text in texts) else texts


def literal_prefix(pattern: str) -> str:
    """Characters with which each match of an anchored pattern begins."""
    if pattern[:1] != "^" or "|" in pattern:
        return ""
    prefix, at = "", 1
    while at < len(pattern):
        is_escape = pattern[at] == "\\" and pattern[at + 1 : at + 2] in SPECIAL_CHARS
        if pattern[at] in SPECIAL_CHARS and not is_escape:
            return prefix[:-1] if pattern[at] in "?*{" else prefix
        at += is_escape
        prefix += pattern[at]
        at += 1
    return prefix


def none_of(texts: list[str]) -> str:
    """A pattern, in any dialect, for every text that is not among `texts`: anchored, and without look-around."""
    return f"^(?:{_outside(sorted(set(texts)))})$"


def _outside(tails: list[str]) -> str:
    """Alternatives for what is not in `tails`, by their first characters. Recurses once per character of the longest."""
    by_first: dict[str, list[str]] = {}
    for tail in tails:
        if tail:
            by_first.setdefault(tail[0], []).append(tail[1:])
    others = "".join(_literal_in_any(char) for char in by_first)
    parts = [f"[^{others}][\\s\\S]*" if others else "[\\s\\S]+"]
    if "" not in tails:
        parts.append("")
    parts += [f"{_literal_in_any(char)}(?:{_outside(rest)})" for char, rest in by_first.items()]
    return "|".join(parts)


def _literal_in_any(char: str) -> str:
    """An escape that ECMA 262, Python and `translate` read alike."""
    if char.isalnum() and char.isascii():
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else char
