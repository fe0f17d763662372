"""Tile sizes, from the number of heads and the width of the latent. Fixed for an engine: nothing is tuned while it runs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kernels.device_limits import DeviceLimits
from kernels.paged_attention.triton.tiling import MIN_DOT_SIZE, WARP_GROUP_ROWS, next_power_of_2

WIDE_RANK = 256
MAX_STAGES = 3


class Tiling(NamedTuple):
    BLOCK_M: int
    """Rows of the tile: queries times the heads of a block."""
    BLOCK_N: int
    """Latents of one block."""
    BLOCK_C: int
    """kv_lora_rank, padded to a power of 2."""
    BLOCK_R: int
    """rope_dim, padded to a power of 2."""
    num_warps: int
    num_stages: int


def decode_tiling(q_nope: Tensor, q_rope: Tensor, limits: DeviceLimits) -> Tiling:
    """One query and all of its heads, so that a latent is read once; with many heads, as many as one warp group multiplies."""
    rows = min(WARP_GROUP_ROWS, max(MIN_DOT_SIZE, next_power_of_2(q_nope.shape[1])))
    return _tiling(q_nope, q_rope, rows, limits)


def extend_tiling(q_nope: Tensor, q_rope: Tensor, limits: DeviceLimits) -> Tiling:
    """Several queries, for one warp group. Wider tiles of 512 float32 sums a row would not fit in registers."""
    return _tiling(q_nope, q_rope, WARP_GROUP_ROWS, limits)


def _tiling(q_nope: Tensor, q_rope: Tensor, rows: int, limits: DeviceLimits) -> Tiling:
    """Eight warps hold the sums of 64 rows of 512. As many stages as fit beside the queries."""
    rank, rope = (max(MIN_DOT_SIZE, next_power_of_2(q.shape[2])) for q in (q_nope, q_rope))
    row_bytes = (rank + rope) * q_nope.element_size()
    wide = rank >= WIDE_RANK
    keys = 32 if wide else 64
    stages = (limits.shared_bytes - rows * row_bytes) // (keys * row_bytes)
    num_warps = 8 if wide and rows > 2 * MIN_DOT_SIZE else 4
    return Tiling(rows, keys, rank, rope, num_warps, min(MAX_STAGES, max(1, stages)))
