"""Thinking between two tags at the beginning of an output, before the answer.

Blank space that touches a tag belongs to it. A tag further on is text: the answer may well speak of one.
"""

from __future__ import annotations

from runtime.text.parsing import structural_tag as tags
from runtime.text.parsing.cursor import Cursor, Reading
from runtime.text.parsing.markers import Markers


class Thinking:
    """The tags, and whether the first of them is usually in the prompt already."""

    def __init__(self, begin: str, end: str, *, starts_inside: bool) -> None:
        self._begin, self._end = begin, end
        self._ends = Markers(end)
        self._starts_inside = starts_inside

    def read(self, cursor: Cursor, starts_inside: bool | None) -> Reading[None]:
        """See `ReasoningFormat`."""
        yield from cursor.blanks()
        has_begun = yield from cursor.literal(self._begin)
        if has_begun or (self._starts_inside if starts_inside is None else starts_inside):
            cursor.drop()
            yield from cursor.blanks()
            cursor.drop()
            marker = yield from cursor.until(self._ends, _Trimmed(cursor).add)
            cursor.drop()
            if marker:
                yield from cursor.blanks()
                cursor.drop()
        yield from cursor.rest_as_text()

    def starts_inside(self, prompt: str) -> bool | None:
        """See `ReasoningFormat`."""
        end = prompt.rstrip()
        if end.endswith(self._begin):
            return True
        return False if end.endswith(self._end) else None

    def before(self, answer: tags.Format, starts_inside: bool | None, is_call: bool) -> tags.Format:
        """See `ReasoningFormat`."""
        if starts_inside is False:
            return answer
        blank = tags.regex(r"[ \n]{0,2}")
        if starts_inside or self._starts_inside:
            return tags.sequence(tags.tag("", tags.any_text(), self._end), blank, answer)
        thinking = tags.tag(self._begin, tags.any_text(), self._end)
        return tags.sequence(tags.optional(tags.sequence(thinking, blank)), answer)


class _Trimmed:
    """Keeps blank space back until something follows it."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._held: list[str] = []

    def add(self, text: str) -> None:
        solid = text.rstrip()
        if solid:
            self._cursor.emit_reasoning("".join((*self._held, solid)))
            self._held.clear()
        self._held.append(text[len(solid) :])
