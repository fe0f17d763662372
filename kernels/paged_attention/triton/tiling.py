"""Tile sizes, from the width of a head and what the device has. Fixed for an engine: nothing is tuned while it runs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kernels.device_limits import DeviceLimits

MIN_DOT_SIZE = 16
WARP_GROUP_ROWS = 64
BLOCK_BYTES = 16 * 1024
DECODE_STAGES = 5
EXTEND_STAGES = 3


def next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


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

    Five stages have two blocks under way, as reading a page's number and then the page takes two; half of the shared memory
    leaves room for other programs, which hide more of the latency.
    """
    return _tiling(q, max(MIN_DOT_SIZE, next_power_of_2(group)), 4, DECODE_STAGES, limits.shared_bytes // 2)


def extend_tiling(q: Tensor, group: int, limits: DeviceLimits) -> Tiling:
    """Many queries. The more rows, the more often a loaded key is used: 128, two warp groups, as far as registers reach."""
    rows = 2 * WARP_GROUP_ROWS if _padded_bytes(q) <= 256 else WARP_GROUP_ROWS
    rows = max(rows, next_power_of_2(group))
    return _tiling(q, rows, 4 if rows <= WARP_GROUP_ROWS else 8, EXTEND_STAGES, limits.shared_bytes)


def invariant_tiling(q: Tensor, group: int, limits: DeviceLimits) -> Tiling:
    """For decode and extend alike: the instructions that multiply tiles, and so the bits, depend on a tile's shape."""
    num_warps = 4 if _padded_bytes(q) <= 256 else 8  # merging splits takes registers twice
    return _tiling(q, max(WARP_GROUP_ROWS, next_power_of_2(group)), num_warps, EXTEND_STAGES, limits.shared_bytes)


def _padded_bytes(q: Tensor) -> int:
    return max(MIN_DOT_SIZE, next_power_of_2(q.shape[2])) * q.element_size()


def num_stages(rows: int, num_blocks: int, most: int) -> int:
    """Of a loop that reads a page's number, then the page, when `num_blocks` fit beside the queries.

    Warp groups still read a block from shared memory when the next but one is on its way.
    """
    num_under_way = num_blocks - (rows >= WARP_GROUP_ROWS)
    return min(most, max(1, 2 * num_under_way + 1))


def _tiling(q: Tensor, rows: int, num_warps: int, most_stages: int, shared_bytes: int) -> Tiling:
    """Blocks of 16 KiB: 64 keys of 128 numbers in bfloat16."""
    row_bytes = _padded_bytes(q)
    keys = min(128, max(MIN_DOT_SIZE, BLOCK_BYTES // row_bytes))
    num_blocks = (shared_bytes - rows * row_bytes) // (2 * keys * row_bytes)
    return Tiling(rows, keys, row_bytes // q.element_size(), num_warps, num_stages(rows, num_blocks, most_stages))
