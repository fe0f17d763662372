"""What the tests of grouped products go through: experts without rows, with less than a tile and with several tiles."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    num_experts: int
    top_k: int
    num_inputs: int
    num_outputs: int
    rows_per_tile: int


CASES = (
    Case(1, 1, 1, 1, 1, 16),
    Case(1, 8, 2, 100, 70, 16),
    Case(3, 16, 4, 64, 128, 16),
    Case(40, 3, 2, 33, 130, 32),
    Case(50, 6, 3, 96, 40, 64),
    Case(150, 2, 1, 64, 9, 128),
    Case(0, 4, 2, 32, 8, 16),
)
