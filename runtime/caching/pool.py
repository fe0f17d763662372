"""The page pool: which pages of the KV cache are free, and which wait for a step in flight.

Owns every page id that nobody else owns. A page is free, fenced (given back, but a step that may still write to it is in
flight) or issued; an issued page belongs to exactly one lease or to the radix tree. Receives and sends nothing.
Invariant: a page is never issued twice, and a fenced page is not issued before its step has retired.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import EngineError

_IN_POOL, _ISSUED = 0, 1


class OwnershipError(EngineError):
    """A page or lease was used by somebody who does not own it: a bug of the server, never caused by a client."""


def expect(is_true: bool, text: str) -> None:
    """`assert` for the invariant checkers, also under `python -O`. Raises `AssertionError`."""
    if not is_true:
        raise AssertionError(text)


class PagePool:
    """Page ids 0 ≤ page < `num_pages`, all free at first."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.num_fenced_pages = 0
        self._free = list(range(num_pages - 1, -1, -1))  # a stack: the page used last is the warmest
        self._owners = bytearray(num_pages)
        self._fenced: dict[int, list[int]] = {}  # by fence step; as many entries as steps are in flight
        self._retired_step = -1

    @property
    def num_free_pages(self) -> int:
        return len(self._free)

    def take(self, num_pages: int) -> list[int]:
        """Issue `num_pages` free pages. Raises `OwnershipError` if there are fewer."""
        num_left = len(self._free) - num_pages
        if num_left < 0 or num_pages < 0:
            raise OwnershipError(f"{num_pages} pages wanted, {len(self._free)} free")
        pages = self._free[num_left:]
        del self._free[num_left:]
        owners = self._owners
        for page in pages:
            owners[page] = _ISSUED
        return pages

    def give_back(self, pages: Iterable[int], fence_step: int = -1) -> None:
        """End the issue of `pages`, for others to take once `fence_step` has retired.

        Raises `OwnershipError` for a page that is not issued, such as one that is given back twice.
        """
        is_fenced = fence_step > self._retired_step
        heap = self._fenced.setdefault(fence_step, []) if is_fenced else self._free
        for page in pages:
            if self._owners[page] != _ISSUED:
                raise OwnershipError(f"page {page} was given back twice")
            self._owners[page] = _IN_POOL
            heap.append(page)
            self.num_fenced_pages += is_fenced

    def retire(self, step: int) -> None:
        """All steps up to and including `step` are done: pages fenced by them are free."""
        if step <= self._retired_step:
            return
        self._retired_step = step
        for fence_step in [fence for fence in self._fenced if fence <= step]:
            pages = self._fenced.pop(fence_step)
            self.num_fenced_pages -= len(pages)
            self._free += pages

    def check(self) -> list[int]:
        """The issued pages. Raises `AssertionError` if a page is free or fenced twice, or neither but not issued."""
        fenced = [page for pages in self._fenced.values() for page in pages]
        unissued = self._free + fenced
        expect(len(fenced) == self.num_fenced_pages, f"{len(fenced)} pages are fenced, counted {self.num_fenced_pages}")
        expect(len(set(unissued)) == len(unissued), f"a page is in the pool twice: {sorted(unissued)}")
        expect(all(step > self._retired_step for step in self._fenced), "a page is fenced by a step that has retired")
        issued = [page for page, owner in enumerate(self._owners) if owner == _ISSUED]
        expect(sorted(unissued + issued) == list(range(self.num_pages)), "a page is both issued and in the pool, or neither")
        return issued
