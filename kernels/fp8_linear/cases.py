"""What the tests of 8-bit products go through: parts of blocks, several blocks, and weights cut in slices."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_rows: int
    num_inputs: int
    num_outputs: int
    has_bias: bool


CASES = (
    Case(1, 1, 1, False),
    Case(1, 128, 128, True),
    Case(3, 300, 70, True),
    Case(5, 1100, 200, True),
    Case(66, 256, 140, False),
    Case(0, 128, 32, True),
)
