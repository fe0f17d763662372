"""What the tests of batch-invariant products go through: one tile and many, sizes that fill none, and weights cut in slices."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_rows: int
    num_inputs: int
    num_outputs: int
    has_bias: bool


CASES = (
    Case(1, 1, 1, False),
    Case(1, 576, 200, True),
    Case(3, 64, 128, False),
    Case(5, 1100, 70, True),
    Case(129, 33, 130, True),
    Case(300, 128, 9, False),
    Case(0, 32, 32, True),
)
