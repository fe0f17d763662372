"""Finds the first of several stop strings in a text that arrives in pieces, in time linear in the text.

Owns the end of the text that could still become a stop string, and gives out everything before it at once. Each string is
followed by the automaton of Knuth, Morris and Pratt, so no character is looked at twice. The match that is complete first
counts, of several that end together the longest: that does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopString:
    """How much of one stop string the text seen so far ends with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallbacks = _fallbacks(text)

    def advance(self, piece: str) -> int | None:
        """Follow `piece`; the index after the first complete match in it, if there is one."""
        text, matched, fallbacks = self.text, self.num_matched, self._fallbacks
        if not matched and text[0] not in piece:
            return None
        for index, character in enumerate(piece):
            while matched and text[matched] != character:
                matched = fallbacks[matched - 1]
            if text[matched] == character:
                matched += 1
                if matched == len(text):
                    return index + 1
        self.num_matched = matched
        return None


class StopStrings:
    """All stop strings of one sequence. After a match the object is spent."""

    def __init__(self, stops: Sequence[str], *, keep_match: bool) -> None:
        self._stops = [StopString(stop) for stop in dict.fromkeys(stops)]
        self._keep_match = keep_match
        self._held = ""

    def push(self, piece: str) -> tuple[str, str | None]:
        """Add text; returns what can be shown and the stop string that was completed, if any."""
        if not self._stops:
            return piece, None
        end, matched = len(piece) + 1, None
        for stop in self._stops:
            found = stop.advance(piece)
            if found is not None and (found, -len(stop.text)) < (end, -len(matched or "")):
                end, matched = found, stop.text
        text = self._held + piece
        if matched is not None:
            end += len(self._held)
            return text[: end if self._keep_match else end - len(matched)], matched
        num_held = 0 if self._keep_match else max(stop.num_matched for stop in self._stops)
        shown = len(text) - num_held
        self._held = text[shown:]
        return text[:shown], None

    def flush(self) -> str:
        """What was held back; the sequence has ended without a match."""
        held, self._held = self._held, ""
        return held


def _fallbacks(text: str) -> list[int]:
    """For each prefix the length of its longest proper suffix that is a prefix of `text` too."""
    table = [0] * len(text)
    matched = 0
    for index in range(1, len(text)):
        while matched and text[matched] != text[index]:
            matched = table[matched - 1]
        if text[matched] == text[index]:
            matched += 1
        table[index] = matched
    return table
