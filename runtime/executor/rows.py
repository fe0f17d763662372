"""The rows of a plan as columns, so that a step is a few array operations whatever the number of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.messages import StepRow

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of [rows] each. A row computes the positions from `starts` to `ends` of its slot."""

    indices: Ints
    """Into the plan's rows."""
    slots: Ints
    starts: Ints
    ends: Ints
    samples: Bools

    def keep(self, mask: Bools) -> Rows:
        return Rows(self.indices[mask], self.slots[mask], self.starts[mask], self.ends[mask], self.samples[mask])


def columns(rows: Sequence[StepRow]) -> Rows:
    """All rows of a plan."""
    starts = np.array([row.start for row in rows], dtype=np.int64)
    return Rows(
        indices=np.arange(len(rows)),
        slots=np.array([row.slot for row in rows], dtype=np.int64),
        starts=starts,
        ends=starts + np.array([row.num_tokens for row in rows], dtype=np.int64),
        samples=np.array([row.sample for row in rows], dtype=np.bool_),
    )


def check_rows(rows: Rows, num_tokens: Ints, num_pages: Ints, page_size: int, is_constrained: Callable[[int], bool]) -> None:
    """Raise `ValueError` for a row that does not fit its slot.

    num_tokens, num_pages: [slots]. is_constrained: whether a grammar may know tokens of the slot behind the row's end.
    """
    known = num_tokens[rows.slots]
    is_wrong = (rows.slots < 0) | (rows.starts < 0) | (rows.ends <= rows.starts) | (rows.ends > known)
    is_wrong |= rows.ends > num_pages[rows.slots] * page_size
    is_inside = rows.samples & (rows.ends != known)  # its result is known: only a grammar can know it
    if is_inside.any():
        is_wrong |= is_inside & [not is_constrained(int(slot)) for slot in rows.slots]
    if is_wrong.any():
        first = int(is_wrong.argmax())
        slot = int(rows.slots[first])
        raise ValueError(
            f"the row for positions {rows.starts[first]} to {rows.ends[first]} of slot {slot} does not fit its"
            f" {known[first]} tokens in {num_pages[slot]} pages"
        )


def check_pages(slot: int, num_held: int, pages: Sequence[int], max_pages: int, num_pages: int) -> None:
    """Raise `ValueError` if `pages` can not follow the `num_held` pages that a slot has."""
    if num_held + len(pages) > max_pages:
        raise ValueError(f"slot {slot} gets {num_held + len(pages)} pages; a context has {max_pages}")
    if pages and not 0 <= min(pages) <= max(pages) < num_pages:
        raise ValueError(f"slot {slot} gets a page that does not exist: {pages}")
