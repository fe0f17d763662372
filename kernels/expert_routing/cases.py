"""What the tests of expert routing go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    num_experts: int
    top_k: int
    hidden: int
    rows_per_tile: int


CASES = (
    Case(1, 1, 1, 1, 16),
    Case(1, 8, 2, 64, 16),
    Case(3, 128, 8, 100, 16),
    Case(5, 7, 7, 33, 4),
    Case(40, 60, 4, 64, 2),
    Case(70, 5, 3, 8, 64),
    Case(0, 4, 2, 8, 16),
)
