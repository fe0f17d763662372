"""Attention of blocks of queries: for steps in which some row has many tokens. All keys, new ones too, are read from the pages.

The grid has room for as many blocks as rows of any lengths can need, so nothing is read back from the device; a program finds
its row by a search and ends at once if there is none. Blocks that see the most keys start first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.paged_attention.triton.rows import row_of_block
from kernels.paged_attention.triton.splits import finish, merge, split_keys
from kernels.paged_attention.triton.tile import LOG2_E, attend, load_rows, query_offsets
from kernels.paged_attention.triton.tiling import Tiling


def num_blocks(num_tokens: int, num_rows: int, block_q: int) -> int:
    """Most blocks of `block_q` queries that any shares of the tokens make."""
    return num_tokens // block_q + num_rows


@triton.jit(do_not_specialize=["num_rows", "num_splits", "table_stride", "window"])
def attend_blocks(
    out,
    q,
    keys,
    values,
    query_starts,
    kv_lengths,
    page_tables,
    alibi_slopes,
    sinks,
    num_rows,
    num_splits,
    q_token_stride,
    q_head_stride,
    table_stride,
    qk_scale,
    cap,
    window,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid [blocks, kv_heads]: writes the output of one block and group of heads.

    IS_SPLIT: in the splits that decode uses, merged in the same order, so that a token has the same bits in either.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(1)
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
    lowest = tl.maximum(first_position - window + 1, 0) if HAS_WINDOW else 0

    first_token = row_start + block * BLOCK_Q
    offsets, query, head, there = query_offsets(first_token, kv_head, num_held, q_token_stride, q_head_stride, GROUP, BLOCK_M)
    tile = load_rows(q, offsets, there, HEAD_DIM, BLOCK_D)
    position = tl.where(there, first_position + query, -1)
    slope = tl.zeros([BLOCK_M], tl.float32)
    if alibi_slopes is not None:
        slope = tl.load(alibi_slopes + head, mask=there, other=0.0).to(tl.float32) * LOG2_E
    page_table = page_tables + row.to(tl.int64) * table_stride

    if IS_SPLIT:
        maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for split in range(num_splits):
            first, split_end = split_keys(split, lowest, end, BLOCK_N)
            if first < split_end:
                part_maximum, part_total, part_weighted = attend(
                    tile,
                    position,
                    slope,
                    keys,
                    values,
                    page_table,
                    kv_head,
                    first,
                    split_end,
                    lowest,
                    qk_scale,
                    cap,
                    window,
                    NUM_KV_HEADS,
                    PAGE_SIZE,
                    HEAD_DIM,
                    HAS_WINDOW,
                    HAS_SOFTCAP,
                    alibi_slopes is not None,
                    BLOCK_M,
                    BLOCK_N,
                    BLOCK_D,
                )
                maximum, total, weighted = merge(maximum, total, weighted, part_maximum, part_total, part_weighted)
    else:
        maximum, total, weighted = attend(
            tile,
            position,
            slope,
            keys,
            values,
            page_table,
            kv_head,
            lowest // BLOCK_N * BLOCK_N,
            end,
            lowest,
            qk_scale,
            cap,
            window,
            NUM_KV_HEADS,
            PAGE_SIZE,
            HEAD_DIM,
            HAS_WINDOW,
            HAS_SOFTCAP,
            alibi_slopes is not None,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
        )

    sink = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=there, other=0.0).to(tl.float32) * LOG2_E
    rows = finish(maximum, total, weighted, sink)
    dim = tl.arange(0, BLOCK_D)[None, :]
    first_place = first_token.to(tl.int64) * NUM_KV_HEADS * GROUP * HEAD_DIM
    places = (query * NUM_KV_HEADS * GROUP + head)[:, None] * HEAD_DIM + dim
    tl.store(out + first_place + places, rows.to(out.dtype.element_ty), mask=there[:, None] & (dim < HEAD_DIM))


def extend(inputs: Mapping[str, Any], sinks: Tensor | None, tiling: Tiling, *, is_split: bool) -> Tensor:
    """inputs: arguments of `attend_blocks` by name, those that `decode` takes too → [tokens, heads, head_dim]."""
    q: Tensor = inputs["q"]
    out = q.new_zeros(q.shape)  # tokens that no row owns are not written
    blocks = num_blocks(q.shape[0], inputs["num_rows"], tiling.BLOCK_M // inputs["GROUP"])
    attend_blocks[(blocks, inputs["NUM_KV_HEADS"])](out, sinks=sinks, IS_SPLIT=is_split, **inputs, **tiling._asdict())
    return out
