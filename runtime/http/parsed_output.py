"""One sequence's output, read piece by piece: its text, its reasoning and its tool calls, and how many tokens were thought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.messages import TextRow
from runtime.pieces import CallArguments, CallBegin, Piece, PieceParser, ReasoningPiece, TextPiece


@dataclass
class ParsedCall:
    """A tool call as far as it has come."""

    id: str
    name: str
    fragments: list[str] = field(default_factory=list)
    is_cut: bool = False
    """It is the last one, and the output has reached its token limit."""

    @property
    def arguments(self) -> str:
        """JSON text, of which the end may be cut. A call without any is one with no arguments."""
        return "".join(self.fragments) or ("" if self.is_cut else "{}")


class ParsedOutput:
    """Feed it the rows of one sequence. Without a parser everything is text.

    `draw_call_id` names calls whose format does not; `max_calls` drops those beyond.
    """

    def __init__(self, parser: PieceParser | None, draw_call_id: Callable[[], str], max_calls: int | None = None) -> None:
        self._parser = parser
        self._draw_call_id = draw_call_id
        self._max_calls = max_calls
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._has_answered = False
        self._num_tokens = 0
        self.num_reasoning_tokens = 0
        """Tokens of the rows before the first that brought something else than reasoning."""
        self.calls: list[ParsedCall] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._thoughts)

    def feed(self, row: TextRow) -> list[Piece]:
        """What `row` adds. A `CallBegin` among them has its id."""
        pieces = [named for piece in self._parse(row) if (named := self._take(piece)) is not None]
        self._count(row)
        if self.calls and row.finish is not None and row.finish.type == "length":
            self.calls[-1].is_cut = True
        return pieces

    def _parse(self, row: TextRow) -> list[Piece]:
        if self._parser is None:
            return [TextPiece(row.text)] if row.text else []
        pieces = self._parser.feed(row.text) if row.text else []
        return pieces + self._parser.close() if row.finish is not None else pieces

    def _take(self, piece: Piece) -> Piece | None:
        """Keep `piece`; None if it belongs to a call too many."""
        match piece:
            case TextPiece(text):
                self._texts.append(text)
                self._has_answered = True
            case ReasoningPiece(text):
                self._thoughts.append(text)
            case CallBegin(index=index) | CallArguments(index=index):
                self._has_answered = True
                return self._take_call(piece) if self._max_calls is None or index < self._max_calls else None
        return piece

    def _take_call(self, piece: CallBegin | CallArguments) -> Piece:
        if isinstance(piece, CallArguments):
            self.calls[piece.index].fragments.append(piece.text)
            return piece
        call = ParsedCall(piece.id or self._draw_call_id(), piece.name)
        self.calls.append(call)
        return CallBegin(piece.index, piece.name, call.id)

    def _count(self, row: TextRow) -> None:
        if not self._has_answered:
            self._num_tokens += len(row.token_ids)
            self.num_reasoning_tokens = self._num_tokens if self._thoughts else 0
