"""Markers: the fixed strings that divide a model's output, found in text that is still being written."""

from __future__ import annotations

import re


class Markers:
    """A set of strings, searched for together. None may be a part of another: then the first that is complete is the first."""

    def __init__(self, *markers: str) -> None:
        assert not any(one != other and one in other for one in markers for other in markers), markers
        self._pattern = re.compile("|".join(map(re.escape, markers)))
        self._prefixes = frozenset(marker[:size] for marker in markers for size in range(1, len(marker)))
        self._max_held = max(map(len, markers)) - 1

    def find(self, text: str, position: int) -> tuple[int, str]:
        """The first marker from `position` on: where it begins, and itself.

        Without one: where the longest end of `text` begins that may become one, and "".
        """
        match = self._pattern.search(text, position)
        if match:
            return match.start(), match[0]
        for begin in range(max(position, len(text) - self._max_held), len(text)):
            if text[begin:] in self._prefixes:
                return begin, ""
        return len(text), ""
