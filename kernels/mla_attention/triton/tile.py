"""The tile of both kernels: some queries of a row, with a block of heads, against the row's latents in order.

As in `kernels.paged_attention.triton.tile`; a block of latents is loaded once and serves as keys and as values.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.paged_attention.triton.tile import add_keys, key_offsets, load_rows


@triton.jit
def attend_latents(
    nope,
    rope,
    position,
    pages,
    page_table,
    first,
    end,
    qk_scale,
    PAGE_SIZE: tl.constexpr,
    RANK: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One part of the softmax, over keys `first`, a multiple of BLOCK_N, to `end`: [BLOCK_M], [BLOCK_M], [BLOCK_M, BLOCK_C].

    nope: [BLOCK_M, BLOCK_C]; rope: [BLOCK_M, BLOCK_R]; position: [BLOCK_M], -1 for a row that is not there.
    """
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in tl.range(first, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        held = at < end
        offsets = key_offsets(start, held, page_table, 0, 1, PAGE_SIZE, RANK + ROPE_DIM, BLOCK_N)
        latent = load_rows(pages, offsets, held, RANK, BLOCK_C).to(nope.dtype)
        rotated = load_rows(pages + RANK, offsets, held, ROPE_DIM, BLOCK_R).to(nope.dtype)
        scores = tl.dot(nope, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(rope, tl.trans(rotated), scores, input_precision="ieee") * qk_scale
        seen = (at[None, :] <= position[:, None]) & held[None, :]
        scores = tl.where(seen, scores, float("-inf"))
        maximum, total, weighted = add_keys(maximum, total, weighted, scores, latent)
    return maximum, total, weighted
