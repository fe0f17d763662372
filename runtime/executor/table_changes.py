"""What one step changes in the batch table on the device: tokens, pages and sampling rules of some slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.executor.rows import Ints


class TableChanges:
    """Collected while a step is prepared. A place is written at most once in a step, or twice with the same value."""

    def __init__(self) -> None:
        self._tokens: list[Ints] = []
        self._pages: list[Ints] = []
        self.has_rules = False
        self.list_slots: list[int] = []
        """Slots whose bias or masked ids are not none."""

    def write_tokens(self, slot: int, start: int, token_ids: Sequence[int]) -> None:
        self._tokens.append(_places(slot, start, token_ids))

    def write_pages(self, slot: int, start: int, pages: Sequence[int]) -> None:
        if pages:
            self._pages.append(_places(slot, start, pages))

    def write_rules(self, slot: int, *, has_lists: bool) -> None:
        self.has_rules = True
        if has_lists:
            self.list_slots.append(slot)

    def tokens(self) -> Ints:
        """[3, tokens] slots, positions and ids."""
        return _joined(self._tokens)

    def pages(self) -> Ints:
        """[3, pages] slots, places in the page table and pages."""
        return _joined(self._pages)


def _places(slot: int, start: int, values: Sequence[int]) -> npt.NDArray[np.int64]:
    places = np.empty((3, len(values)), dtype=np.int64)
    places[0] = slot
    places[1] = np.arange(start, start + len(values))
    places[2] = values
    return places


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts, axis=1) if parts else np.empty((3, 0), dtype=np.int64)
