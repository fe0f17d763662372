"""Tile sizes, from the number of heads and the width of the latent. Fixed for an engine: nothing is tuned while it runs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kernels.device_limits import DeviceLimits
from kernels.paged_attention.triton.tiling import (
    DECODE_STAGES,
    EXTEND_STAGES,
    MIN_DOT_SIZE,
    WARP_GROUP_ROWS,
    next_power_of_2,
    num_stages,
)

WIDE_RANK = 256
BLOCK_BYTES = 64 * 1024


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
    """One query and all of its heads, so that a latent is read once; with many heads, as many as a warp group multiplies."""
    rows = max(MIN_DOT_SIZE, next_power_of_2(q_nope.shape[1]))
    return _tiling(q_nope, q_rope, min(rows, _most_rows(q_nope, limits)), DECODE_STAGES, limits)


def extend_tiling(q_nope: Tensor, q_rope: Tensor, limits: DeviceLimits) -> Tiling:
    """Several queries, as many as a warp group multiplies: the sums of more rows of 512 would not fit in registers."""
    return _tiling(q_nope, q_rope, _most_rows(q_nope, limits), EXTEND_STAGES, limits)


def invariant_tiling(q_nope: Tensor, q_rope: Tensor, limits: DeviceLimits) -> Tiling:
    """For decode and extend alike. Half the rows, because merging splits takes the registers twice."""
    return _tiling(q_nope, q_rope, max(MIN_DOT_SIZE, _most_rows(q_nope, limits) // 2), EXTEND_STAGES, limits)


def _most_rows(q_nope: Tensor, limits: DeviceLimits) -> int:
    """64 rows of 576 bfloat16 and blocks beside them take 200 KiB, as an H100 has. Elsewhere half, and a quarter of float32."""
    if q_nope.element_size() > 2:
        return MIN_DOT_SIZE
    return WARP_GROUP_ROWS if limits.shared_bytes >= 208 * 1024 else WARP_GROUP_ROWS // 2


def _tiling(q_nope: Tensor, q_rope: Tensor, rows: int, most_stages: int, limits: DeviceLimits) -> Tiling:
    """Blocks of 32 latents of 576 bfloat16 are 36 KiB; the queries, too, lie in shared memory."""
    rank, rope = (max(MIN_DOT_SIZE, next_power_of_2(q.shape[2])) for q in (q_nope, q_rope))
    row_bytes = (rank + rope) * q_nope.element_size()
    keys = min(64, max(MIN_DOT_SIZE, BLOCK_BYTES // next_power_of_2(row_bytes)))
    num_blocks = (limits.shared_bytes - rows * row_bytes) // (keys * row_bytes)
    num_warps = 8 if rank >= WIDE_RANK and rows > MIN_DOT_SIZE else 4
    return Tiling(rows, keys, rank, rope, num_warps, num_stages(rows, num_blocks, most_stages))
