"""What the tests of the gated activations go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    intermediate: int


CASES = (Case(1, 1), Case(2, 15), Case(3, 16), Case(5, 1536), Case(33, 100), Case(40, 513), Case(0, 16))
