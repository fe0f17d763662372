"""What the tests of plain products go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    num_inputs: int
    num_outputs: int
    has_bias: bool


CASES = (
    Case(1, 1, 1, False),
    Case(1, 576, 960, True),
    Case(2, 33, 31, True),
    Case(3, 64, 32, False),
    Case(7, 577, 100, True),
    Case(15, 128, 65, False),
    Case(32, 1536, 576, False),
    Case(0, 32, 32, False),
)
