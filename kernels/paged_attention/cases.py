"""What the tests of paged attention go through."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    rows: tuple[tuple[int, int], ...]  # queries and keys of each row
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    alibi: bool = False


CASES = (
    Case(((1, 1),), 9, 3, 64, 16),
    Case(((1, 5), (1, 160), (1, 257), (1, 840)), 9, 3, 64, 16),
    Case(((1, 2000),), 9, 3, 64, 32),
    Case(((70, 300), (1, 17), (3, 3), (0, 0), (16, 700)), 9, 3, 64, 16),
    Case(((300, 600),), 4, 4, 40, 32),
    Case(((40, 600), (1, 700)), 8, 1, 80, 7),
    Case(((33, 33),), 71, 1, 24, 16),
    Case(((5, 260), (1, 31)), 2, 2, 37, 1),
    Case(((1, 700), (9, 300)), 16, 2, 256, 16),
    Case(((40, 600), (1, 700)), 6, 2, 96, 16, window=100),
    Case(((3, 20), (1, 700), (40, 300)), 4, 2, 64, 16, window=1),
    Case(((40, 600), (1, 700)), 8, 2, 128, 16, softcap=30.0),
    Case(((40, 600), (1, 700)), 8, 2, 64, 16, window=128, sinks=True),
    Case(((40, 300), (1, 700)), 5, 5, 72, 16, alibi=True),
    Case(((17, 400),), 3, 1, 48, 8, window=60, softcap=5.0, sinks=True, alibi=True),
)
