"""What the tests of log probabilities go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_rows: int
    vocab_size: int
    num_ids: int
    num_top: int


CASES = (
    Case(1, 1, 1, 1),
    Case(2, 63, 3, 5),
    Case(3, 1000, 1, 20),
    Case(1, 4097, 70, 3),
    Case(2, 9000, 0, 128),
    Case(5, 500, 2, 0),
    Case(1, 20, 1, 100),
    Case(0, 64, 1, 2),
)
