"""Parsers made of parsers, and what is done to their pieces on the way."""

from __future__ import annotations

from runtime.pieces import CallArguments, CallBegin, Piece, PieceParser, TextPiece
from runtime.text.parsing.cursor import joined


class Chain:
    """The text that the first parser finds is parsed by the second one."""

    def __init__(self, first: PieceParser, second: PieceParser) -> None:
        self._first, self._second = first, second

    def feed(self, text: str) -> list[Piece]:
        """See `PieceParser`."""
        return joined(self._pass_on(self._first.feed(text)))

    def close(self) -> list[Piece]:
        """See `PieceParser`."""
        return joined(self._pass_on(self._first.close()) + self._second.close())

    def _pass_on(self, pieces: list[Piece]) -> list[Piece]:
        passed: list[Piece] = []
        for piece in pieces:
            passed += self._second.feed(piece.text) if isinstance(piece, TextPiece) else [piece]
        return passed


class FirstCall:
    """Leaves out all calls but the first: for a client that wants one at most."""

    def __init__(self, parser: PieceParser) -> None:
        self._parser = parser

    def feed(self, text: str) -> list[Piece]:
        """See `PieceParser`."""
        return _of_first_call(self._parser.feed(text))

    def close(self) -> list[Piece]:
        """See `PieceParser`."""
        return _of_first_call(self._parser.close())


class RequiredCalls:
    """Leaves out text where a grammar allows none: it is the markup of a call that the token limit or a stop string has cut.

    `has_text`: something that is no call comes first, and is text; what is held back at the end is still markup.
    """

    def __init__(self, parser: PieceParser, *, has_text: bool) -> None:
        self._parser = parser
        self._has_text = has_text

    def feed(self, text: str) -> list[Piece]:
        """See `PieceParser`."""
        pieces = self._parser.feed(text)
        return pieces if self._has_text else _without_text(pieces)

    def close(self) -> list[Piece]:
        """See `PieceParser`."""
        return _without_text(self._parser.close())


def _without_text(pieces: list[Piece]) -> list[Piece]:
    return joined([piece for piece in pieces if not isinstance(piece, TextPiece)])


def _of_first_call(pieces: list[Piece]) -> list[Piece]:
    return joined([piece for piece in pieces if not isinstance(piece, CallBegin | CallArguments) or piece.index == 0])
