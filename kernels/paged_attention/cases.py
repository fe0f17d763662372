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

SMALL_CASES = (
    Case(((1, 1),), 9, 3, 64, 16),
    Case(((1, 5), (1, 257), (1, 540)), 4, 2, 64, 16),
    Case(((1, 2300),), 2, 1, 16, 64),
    Case(((1, 270), (0, 0), (1, 31), (1, 0)), 2, 1, 37, 1),
    Case(((1, 140),), 17, 1, 24, 128),
    Case(((1, 70), (1, 30)), 4, 1, 256, 7),
    Case(((1, 300), (1, 90)), 6, 2, 96, 16, window=100),
    Case(((1, 300), (1, 256)), 4, 1, 64, 16, window=1),
    Case(((1, 270), (1, 7)), 4, 1, 128, 16, softcap=30.0),
    Case(((1, 0), (1, 300)), 4, 1, 64, 16, window=128, sinks=True),
    Case(((1, 270), (1, 7)), 2, 2, 72, 16, alibi=True),
    Case(((1, 600), (1, 30)), 3, 1, 48, 8, window=400, softcap=5.0, sinks=True, alibi=True),
    Case(((2, 20), (0, 0)), 4, 2, 32, 16),
    Case(((70, 100), (1, 17), (3, 3), (0, 0), (16, 280)), 3, 1, 64, 16),
    Case(((150, 280),), 1, 1, 40, 32),
    Case(((30, 100), (1, 270)), 8, 1, 80, 7),
    Case(((4, 33),), 17, 1, 24, 128),
    Case(((5, 60), (1, 31)), 2, 1, 37, 1),
    Case(((40, 290), (1, 200)), 3, 1, 96, 16, window=100),
    Case(((3, 20), (1, 300), (40, 90)), 2, 1, 64, 16, window=1),
    Case(((17, 400), (1, 30)), 3, 1, 48, 8, window=60, softcap=5.0, sinks=True, alibi=True),
)
"""The same for an interpreter of kernels, which is slow: rows of one token, then mixed ones."""
