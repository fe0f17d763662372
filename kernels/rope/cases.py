"""What the tests of rotary embedding and key/value writes go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    page_size: int
    interleaved: bool = False


CASES = (
    Case(1, 9, 3, 64, 64, 16),
    Case(37, 9, 3, 64, 64, 16),
    Case(5, 9, 3, 64, 64, 16, interleaved=True),
    Case(7, 4, 1, 80, 32, 7),
    Case(7, 4, 1, 80, 32, 7, interleaved=True),
    Case(3, 2, 2, 37, 10, 1),
    Case(4, 8, 2, 128, 128, 32),
    Case(300, 9, 3, 96, 72, 16),
    Case(6, 4, 2, 64, 0, 16),
)
