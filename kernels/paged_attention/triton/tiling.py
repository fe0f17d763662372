"""Tile sizes, from the width of a head and what the device has. They are fixed for an engine: nothing is tuned while it runs."""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from kernels.device_limits import DeviceLimits

MIN_DOT_ROWS = 16
WARP_GROUP_ROWS = 64
BLOCK_BYTES = 16 * 1024
MAX_STAGES = 3


class Tiling(NamedTuple):
    BLOCK_M: int
    """Rows of the tile: queries times the heads of a group."""
    BLOCK_N: int
    """Keys of one block."""
    BLOCK_D: int
    """head_dim, padded to a power of 2."""
    num_warps: int
    num_stages: int


def decode_tiling(q: Tensor, group: int, limits: DeviceLimits) -> Tiling:
    """One query with its group of heads. Reading keys is all the cost, so the tile has as few rows as a dot takes.

    Three blocks in flight hide the latency of memory, and half of the shared memory leaves room for a second program.
    """
    return _tiling(q, max(MIN_DOT_ROWS, triton.next_power_of_2(group)), 4, limits.shared_bytes // 2)


def extend_tiling(q: Tensor, group: int, limits: DeviceLimits) -> Tiling:
    """Many queries. The more rows, the more often a loaded key is used: 128, two warp groups, as far as registers reach."""
    rows = 2 * WARP_GROUP_ROWS if _padded_bytes(q) <= 256 else WARP_GROUP_ROWS
    rows = max(rows, triton.next_power_of_2(group))
    return _tiling(q, rows, 4 if rows <= WARP_GROUP_ROWS else 8, limits.shared_bytes)


def invariant_tiling(q: Tensor, group: int, limits: DeviceLimits) -> Tiling:
    """For decode and extend alike: the instructions that multiply tiles, and so the bits, depend on a tile's shape."""
    return _tiling(q, max(WARP_GROUP_ROWS, triton.next_power_of_2(group)), 4, limits.shared_bytes)


def _padded_bytes(q: Tensor) -> int:
    return max(16, triton.next_power_of_2(q.shape[2])) * q.element_size()


def _tiling(q: Tensor, rows: int, num_warps: int, shared_bytes: int) -> Tiling:
    """Blocks of 16 KiB: 64 keys of 128 numbers in bfloat16; as many stages as fit beside the queries."""
    row_bytes = _padded_bytes(q)
    keys = min(128, max(16, BLOCK_BYTES // row_bytes))
    stages = (shared_bytes - rows * row_bytes) // (2 * keys * row_bytes)
    return Tiling(rows, keys, row_bytes // q.element_size(), num_warps, min(MAX_STAGES, max(1, stages)))
