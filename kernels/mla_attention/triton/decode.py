"""Latent attention of tokens one by one, with the latents of a row in splits. As `kernels.paged_attention.triton.decode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.device_limits import DeviceLimits
from kernels.mla_attention.triton.tile import attend_latents
from kernels.mla_attention.triton.tiling import Tiling
from kernels.paged_attention.triton.decode import Parts, merge_splits, num_workers, seen_keys
from kernels.paged_attention.triton.splits import split_keys
from kernels.paged_attention.triton.tile import load_rows, query_offsets


@triton.jit(do_not_specialize=["num_rows", "num_splits", "table_stride"])
def attend_splits(
    maxima,
    totals,
    weighted,
    q_nope,
    q_rope,
    pages,
    query_starts,
    kv_lengths,
    page_tables,
    num_rows,
    num_splits,
    nope_token_stride,
    nope_head_stride,
    rope_token_stride,
    rope_head_stride,
    table_stride,
    qk_scale,
    NUM_HEADS: tl.constexpr,
    HEADS_PER_BLOCK: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    RANK: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid [tokens, blocks of heads, workers]: leaves the parts of one token and block of heads."""
    token = tl.program_id(0)
    heads = tl.program_id(1)
    row, lowest, end = seen_keys(token, query_starts, kv_lengths, num_rows, 0, False)
    offsets, _, head, there = query_offsets(token, heads, 1, nope_token_stride, nope_head_stride, HEADS_PER_BLOCK, BLOCK_M)
    there = there & (head < NUM_HEADS)
    nope = load_rows(q_nope, offsets, there, RANK, BLOCK_C)
    rope = load_rows(q_rope, token.to(tl.int64) * rope_token_stride + head * rope_head_stride, there, ROPE_DIM, BLOCK_R)
    position = tl.where(there, end - 1, -1)
    page_table = page_tables + row.to(tl.int64) * table_stride
    dim = tl.arange(0, BLOCK_C)[None, :]

    for split in range(tl.program_id(2), num_splits, tl.num_programs(2)):
        first, split_end = split_keys(split, lowest, end, BLOCK_N)
        if first < split_end:
            part_maximum, part_total, part_weighted = attend_latents(
                nope,
                rope,
                position,
                pages,
                page_table,
                first,
                split_end,
                qk_scale,
                PAGE_SIZE,
                RANK,
                ROPE_DIM,
                BLOCK_M,
                BLOCK_N,
                BLOCK_C,
                BLOCK_R,
            )
            first_part = token.to(tl.int64) * NUM_HEADS * num_splits
            part = head * num_splits + split
            tl.store(maxima + first_part + part, part_maximum, mask=there)
            tl.store(totals + first_part + part, part_total, mask=there)
            places = part[:, None] * RANK + dim
            tl.store(weighted + first_part * RANK + places, part_weighted, mask=there[:, None] & (dim < RANK))


def decode(inputs: Mapping[str, Any], tiling: Tiling, limits: DeviceLimits) -> Tensor:
    """inputs: arguments of `attend_splits` by name, without outputs and tile sizes → [tokens, heads, kv_lora_rank]."""
    q: Tensor = inputs["q_nope"]
    num_tokens, num_heads, rank = q.shape
    parts = Parts.empty(num_tokens, num_heads, inputs["num_splits"], rank, q.device)
    head_blocks = triton.cdiv(num_heads, inputs["HEADS_PER_BLOCK"])
    workers = num_workers(num_tokens * head_blocks, inputs["num_splits"], limits)
    attend_splits[(num_tokens, head_blocks, workers)](*parts, **inputs, **tiling._asdict())
    out = q.new_empty(q.shape)
    merge_splits[(num_tokens, num_heads)](
        out,
        *parts,
        inputs["query_starts"],
        inputs["kv_lengths"],
        None,
        inputs["num_rows"],
        inputs["num_splits"],
        0,
        HEAD_DIM=rank,
        HAS_WINDOW=False,
        BLOCK_N=tiling.BLOCK_N,
        BLOCK_D=tiling.BLOCK_C,
        num_warps=1,
    )
    return out
