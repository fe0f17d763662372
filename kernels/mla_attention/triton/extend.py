"""Latent attention of blocks of queries. As `kernels.paged_attention.triton.extend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.mla_attention.triton.tile import attend_latents
from kernels.mla_attention.triton.tiling import Tiling
from kernels.paged_attention.triton.extend import num_blocks
from kernels.paged_attention.triton.rows import row_of_block
from kernels.paged_attention.triton.splits import finish, merge, split_keys
from kernels.paged_attention.triton.tile import load_rows, query_offsets


@triton.jit(do_not_specialize=["num_rows", "num_splits", "table_stride"])
def attend_blocks(
    out,
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
    IS_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid [blocks of queries, blocks of heads]: writes the output of one of each. IS_SPLIT: merged as `decode` does."""
    BLOCK_Q: tl.constexpr = BLOCK_M // HEADS_PER_BLOCK
    row, block = row_of_block(tl.num_programs(0) - 1 - tl.program_id(0), query_starts, num_rows, BLOCK_Q)
    if row == num_rows:
        return
    row_start = tl.load(query_starts + row)
    num_queries = tl.load(query_starts + row + 1) - row_start
    if block * BLOCK_Q >= num_queries:
        return
    num_held = tl.minimum(num_queries - block * BLOCK_Q, BLOCK_Q)
    first_position = tl.load(kv_lengths + row) - num_queries + block * BLOCK_Q
    end = tl.maximum(first_position + num_held, 0)

    first_token = row_start + block * BLOCK_Q
    heads = tl.program_id(1)
    offsets, query, head, there = query_offsets(
        first_token, heads, num_held, nope_token_stride, nope_head_stride, HEADS_PER_BLOCK, BLOCK_M
    )
    token = (first_token + query).to(tl.int64)
    there = there & (head < NUM_HEADS)
    nope = load_rows(q_nope, offsets, there, RANK, BLOCK_C)
    rope = load_rows(q_rope, token * rope_token_stride + head * rope_head_stride, there, ROPE_DIM, BLOCK_R)
    position = tl.where(there, first_position + query, -1)
    page_table = page_tables + row.to(tl.int64) * table_stride

    if IS_SPLIT:
        maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        weighted = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
        for split in range(num_splits):
            first, split_end = split_keys(split, 0, end, BLOCK_N)
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
                maximum, total, weighted = merge(maximum, total, weighted, part_maximum, part_total, part_weighted)
    else:
        maximum, total, weighted = attend_latents(
            nope,
            rope,
            position,
            pages,
            page_table,
            0,
            end,
            qk_scale,
            PAGE_SIZE,
            RANK,
            ROPE_DIM,
            BLOCK_M,
            BLOCK_N,
            BLOCK_C,
            BLOCK_R,
        )

    rows = finish(maximum, total, weighted, tl.full([BLOCK_M], float("-inf"), tl.float32))
    dim = tl.arange(0, BLOCK_C)[None, :]
    places = (query * NUM_HEADS + head)[:, None] * RANK + dim
    tl.store(
        out + first_token.to(tl.int64) * NUM_HEADS * RANK + places,
        rows.to(out.dtype.element_ty),
        mask=there[:, None] & (dim < RANK),
    )


def extend(inputs: Mapping[str, Any], tiling: Tiling, *, is_split: bool) -> Tensor:
    """inputs: arguments of `attend_blocks` by name, those that `decode` takes too → [tokens, heads, kv_lora_rank]."""
    q: Tensor = inputs["q_nope"]
    out = q.new_zeros(q.shape)  # tokens that no row owns are not written
    blocks = num_blocks(q.shape[0], inputs["num_rows"], tiling.BLOCK_M // inputs["HEADS_PER_BLOCK"])
    head_blocks = triton.cdiv(q.shape[1], inputs["HEADS_PER_BLOCK"])
    attend_blocks[(blocks, head_blocks)](out, IS_SPLIT=is_split, **inputs, **tiling._asdict())
    return out
