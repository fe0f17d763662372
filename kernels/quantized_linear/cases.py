"""What the tests of quantized linear layers go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_rows: int
    num_inputs: int
    num_outputs: int
    bias: bool = False


CASES = (
    Case(1, 32, 16),
    Case(1, 576, 3072),
    Case(2, 96, 37, bias=True),
    Case(3, 64, 1),
    Case(7, 1536, 576),
    Case(13, 320, 100, bias=True),
    Case(41, 576, 96),
    Case(130, 160, 33, bias=True),
    Case(0, 32, 16),
)
