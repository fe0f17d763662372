"""What the tests of multi-head latent attention go through: rows of one token, then mixed ones."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    rows: tuple[tuple[int, int], ...]  # queries and keys of each row
    num_heads: int
    kv_lora_rank: int
    rope_dim: int
    page_size: int


CASES = (
    Case(((1, 1),), 16, 64, 16, 16),
    Case(((1, 5), (1, 160), (1, 540)), 4, 128, 32, 16),
    Case(((1, 2300),), 2, 16, 16, 64),
    Case(((1, 300), (0, 0), (1, 31), (1, 0)), 5, 40, 24, 1),
    Case(((1, 40),), 70, 64, 16, 7),
    Case(((1, 40),), 16, 512, 64, 64),
    Case(((2, 20), (0, 0)), 4, 32, 16, 16),
    Case(((40, 100), (1, 17), (3, 3), (0, 0), (16, 280)), 4, 64, 16, 16),
    Case(((3, 33),), 40, 64, 16, 64),
    Case(((7, 270), (1, 31)), 3, 48, 8, 7),
)
