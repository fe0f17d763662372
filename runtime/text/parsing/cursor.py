"""A cursor: where the reading of an output stands that is still being written.

A format is a generator that reads through a cursor and yields when it needs text that has not come yet. It decides by
characters alone, never by where the text was cut, so that any cut gives the same pieces. Each character is read once, and held
back only while it may begin a marker, which makes the time linear.

What was read and may be markup is on the tape. When it proves to be a call the tape is dropped, when it proves to be nothing it
is spilled, that is, comes out as text. Blank space that touches a call is markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from typing import TypeVar

import msgspec

from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece
from runtime.text.parsing.markers import Markers

_T = TypeVar("_T")
Reading = Generator[None, None, _T]
"""Yields when it needs more text; returns what it read."""

BLANK = re.compile(r"\s*")


class Cursor:
    """Reads go onto the tape unless they say something else."""

    def __init__(self) -> None:
        self.text = ""
        self.position = 0
        self.is_closed = False
        self._tape: list[str] = []
        self._pieces: list[Piece] = []
        self._num_calls = 0
        self.follows_call = False
        """Whether nothing but blank space came out since the last call."""

    # -- text comes in, pieces go out ----------------------------------------------------------------------------------

    def add(self, text: str) -> None:
        self.text = self.text[self.position :] + text
        self.position = 0

    def take_pieces(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return joined(pieces)

    def emit_text(self, text: str) -> None:
        if text:
            self._pieces.append(TextPiece(text))

    def emit_reasoning(self, text: str) -> None:
        if text:
            self._pieces.append(ReasoningPiece(text))

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """What is on the tape was the markup that says so."""
        self.drop()
        self._pieces.append(CallBegin(self._num_calls, name, call_id))
        self._num_calls += 1
        self.follows_call = True

    def emit_arguments(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        if text:
            self._pieces.append(CallArguments(self._num_calls - 1, text))

    @property
    def num_calls(self) -> int:
        return self._num_calls

    # -- the tape ------------------------------------------------------------------------------------------------------

    def record(self, text: str) -> None:
        if text:
            self._tape.append(text)

    def drop(self) -> None:
        self._tape.clear()

    def spill(self) -> None:
        text = "".join(self._tape)
        self.follows_call &= text.isspace() or not text
        self.emit_text(text)
        self._tape.clear()

    def settle(self, is_call: bool) -> None:
        """What is on the tape was the markup of a call, or nothing."""
        if is_call:
            self.drop()
        else:
            self.spill()

    # -- reading -------------------------------------------------------------------------------------------------------

    def advance(self, end: int) -> str:
        """Read up to `end` in `text`, off the tape."""
        read = self.text[self.position : end]
        self.position = end
        return read

    def peek(self) -> Reading[str]:
        """The next character, unread; "" at the end of the output."""
        while self.position == len(self.text):
            if self.is_closed:
                return ""
            yield
        return self.text[self.position]

    def blanks(self) -> Reading[str]:
        """Read blank space; return the character after it, unread."""
        while True:
            self.record(self.match(BLANK))
            if self.position < len(self.text) or self.is_closed:
                return self.text[self.position : self.position + 1]
            yield

    def match(self, pattern: re.Pattern[str]) -> str:
        """Read, off the tape, as much of the text that is there as `pattern`, of one class of characters, matches."""
        found = pattern.match(self.text, self.position)
        return self.advance(found.end()) if found else ""

    def run(self, pattern: re.Pattern[str], limit: int) -> Reading[str]:
        """Read at most `limit` characters of one class, which `pattern` matches any number of."""
        read = ""
        while True:
            found = pattern.match(self.text, self.position, min(len(self.text), self.position + limit - len(read)))
            assert found, "a pattern of any number of characters matches everywhere"
            read += found[0]
            self.record(self.advance(found.end()))
            if self.position < len(self.text) or self.is_closed or len(read) == limit:
                return read
            yield

    def literal(self, wanted: str) -> Reading[bool]:
        """Read `wanted` if it is next, else nothing."""
        while True:
            found = self.text[self.position : self.position + len(wanted)]
            if found == wanted:
                self.record(self.advance(self.position + len(wanted)))
                return True
            if self.is_closed or not wanted.startswith(found):
                return False
            yield

    def comes(self, *wanted: str) -> Reading[bool]:
        """Whether one of `wanted` is next; nothing is read."""
        while True:
            if any(self.text.startswith(one, self.position) for one in wanted):
                return True
            rest = self.text[self.position : self.position + max(map(len, wanted))]
            if self.is_closed or not any(one.startswith(rest) for one in wanted):
                return False
            yield

    def ending(self, wanted: str) -> Reading[bool]:
        """Read blank space and `wanted`, which ends a call. An output that ends before it is complete is as good."""
        yield from self.blanks()
        is_there = yield from self.literal(wanted)
        rest = self.text[self.position :]
        if not is_there and self.is_closed and wanted.startswith(rest):
            self.advance(len(self.text))
            return True
        return is_there

    def until(self, markers: Markers, sink: Callable[[str], None]) -> Reading[str]:
        """Give `sink` the text before the next marker. Return the marker, which is read; "" at the end of the output."""
        while True:
            begin, marker = markers.find(self.text, self.position)
            if self.is_closed and not marker:
                begin = len(self.text)
            if begin > self.position:
                sink(self.advance(begin))
            if marker:
                self.record(self.advance(begin + len(marker)))
                return marker
            if self.is_closed:
                return ""
            yield

    def text_until(self, markers: Markers) -> Reading[str]:
        """`until`, with what comes before as text, which spills the tape. Blank space before a marker stays on the tape."""
        marker = yield from self.until(markers, self._write)
        if not marker:
            self.end()
        return marker

    def rest_as_text(self) -> Reading[None]:
        """All that is left is text."""
        while not self.is_closed or self.position < len(self.text):
            if self.position < len(self.text):
                self._write(self.advance(len(self.text)))
            else:
                yield
        self.end()

    def end(self) -> None:
        """At the end of the output: nothing can follow the tape any more."""
        if not self.follows_call or "".join(self._tape).strip():
            self.spill()
        self.drop()

    def _write(self, text: str) -> None:
        solid = text.rstrip()
        if solid:
            self.spill()
            self.follows_call = False
            self.emit_text(solid)
        self.record(text[len(solid) :])


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with neighbours of one kind put together."""
    if len(pieces) < 2:
        return list(pieces)
    return [piece for _, group in groupby(pieces, _kind) for piece in _join(list(group))]


def _kind(piece: Piece) -> tuple[type[Piece], int]:
    return type(piece), piece.index if isinstance(piece, CallArguments | CallBegin) else 0


def _join(pieces: list[Piece]) -> list[Piece]:
    first = pieces[0]
    if len(pieces) == 1 or isinstance(first, CallBegin):
        return pieces
    text = "".join(piece.text for piece in pieces if not isinstance(piece, CallBegin))
    return [msgspec.structs.replace(first, text=text)]


class StreamParser:
    """A `PieceParser` that runs a format's reading."""

    def __init__(self, read: Callable[[Cursor], Reading[None]]) -> None:
        self._cursor = Cursor()
        self._reading = read(self._cursor)
        next(self._reading, None)

    def feed(self, text: str) -> list[Piece]:
        """See `PieceParser`."""
        self._cursor.add(text)
        next(self._reading, None)
        return self._cursor.take_pieces()

    def close(self) -> list[Piece]:
        """See `PieceParser`."""
        self._cursor.is_closed = True
        next(self._reading, None)
        return self._cursor.take_pieces()
