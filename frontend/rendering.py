"""A state for people: its text with the roles named and what the model generated marked, as HTML or for a terminal."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from frontend.record import Record, Span

ROLE_COLOURS = {"system": "#6b7280", "user": "#1d4ed8", "assistant": "#047857"}
GENERATED_STYLE = "background:#d1fae5;color:#064e3b;border-radius:3px"
TERMINAL_ROLE = "\x1b[1m"
TERMINAL_GENERATED = "\x1b[32m"
TERMINAL_END = "\x1b[0m"


@dataclass(frozen=True)
class Piece:
    """Text that is all constant or all generated; `role` is set at the beginning of a turn."""

    text: str
    role: str | None = None
    name: str | None = None
    is_generated: bool = False


def pieces(record: Record) -> Iterator[Piece]:
    """The text, cut where turns begin and where generations begin and end."""
    turns = {span.start: span.kind for span in record.spans if span.kind != "generated"}
    generated = [span for span in record.spans if span.kind == "generated" and span.end > span.start]
    cuts = sorted({0, len(record.text), *turns, *(cut for span in generated for cut in (span.start, span.end))})
    for start, end in itertools.pairwise(cuts):
        span = _covering(generated, start)
        yield Piece(record.text[start:end], turns.get(start), span.name if span else None, span is not None)


def _covering(spans: list[Span], position: int) -> Span | None:
    return next((span for span in spans if span.start <= position < span.end), None)


def as_html(record: Record) -> str:
    body = "".join(_html_of(piece) for piece in pieces(record))
    return f'<div style="white-space:pre-wrap;font-family:ui-monospace,monospace">{body}</div>'


def _html_of(piece: Piece) -> str:
    text = html.escape(piece.text)
    if piece.is_generated:
        title = f' title="{html.escape(piece.name)}"' if piece.name else ""
        text = f'<span style="{GENERATED_STYLE}"{title}>{text}</span>'
    if piece.role is None:
        return text
    colour = ROLE_COLOURS.get(piece.role, "#6b7280")
    return f'<b style="color:{colour}">{html.escape(piece.role)}</b> {text}'


def as_terminal(record: Record) -> str:
    return "".join(_terminal_text_of(piece) for piece in pieces(record))


def _terminal_text_of(piece: Piece) -> str:
    text = f"{TERMINAL_GENERATED}{piece.text}{TERMINAL_END}" if piece.is_generated else piece.text
    return text if piece.role is None else f"{TERMINAL_ROLE}{piece.role}{TERMINAL_END} {text}"
