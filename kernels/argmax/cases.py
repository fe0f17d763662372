"""What the tests of the greedy choice go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_rows: int
    vocabulary: int


CASES = (Case(1, 1), Case(2, 63), Case(3, 64), Case(1, 49152), Case(9, 1000), Case(33, 5003), Case(0, 64))
