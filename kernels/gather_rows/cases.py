"""What the tests of taking rows go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    width: int
    rows: tuple[int, ...]


CASES = (Case(1, 1, (0,)), Case(3, 15, (2, 0)), Case(64, 576, (3, 9, 63)), Case(300, 577, tuple(range(300))), Case(5, 64, ()))
