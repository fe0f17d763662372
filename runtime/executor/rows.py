"""The rows of a plan as columns, so that a step is a few array operations whatever the number of its rows."""

from __future__ import annotations

from collections.abc import Sequence
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
