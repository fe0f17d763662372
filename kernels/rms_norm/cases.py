"""What the tests of RMS normalisation go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    hidden: int


CASES = (Case(1, 1), Case(2, 15), Case(1, 16), Case(3, 100), Case(5, 576), Case(33, 257), Case(64, 4096), Case(0, 64))
