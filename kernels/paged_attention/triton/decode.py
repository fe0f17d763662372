"""Attention of tokens one by one, each row's keys shared out in splits: for steps in which every row has one token.

The grid follows from shapes alone, so a CUDA graph may hold it. Several programs serve one token and key head; each takes every
n-th split and leaves its part of the softmax in memory, and a second kernel merges the parts in order. How many programs there
are depends on the batch; the parts and the order in which they are merged do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.device_limits import DeviceLimits
from kernels.paged_attention.triton.rows import row_of_token
from kernels.paged_attention.triton.splits import finish, merge, split_keys
from kernels.paged_attention.triton.tile import LOG2_E, attend, load_rows, query_offsets
from kernels.paged_attention.triton.tiling import Tiling

MIN_WORKERS = 4
PROGRAMS_PER_PROCESSOR = 8


class Parts(NamedTuple):
    """The softmax of each token and head in parts, one for each split that has keys; the others are not written or read."""

    maxima: Tensor  # [tokens, heads, splits] float32
    totals: Tensor  # [tokens, heads, splits] float32
    weighted: Tensor  # [tokens, heads, splits, head_dim] float32

    @classmethod
    def empty(cls, num_tokens: int, num_heads: int, num_splits: int, head_dim: int, device: torch.device) -> Parts:
        shape = (num_tokens, num_heads, num_splits)
        maxima, totals = torch.empty((2, *shape), dtype=torch.float32, device=device)
        return cls(maxima, totals, torch.empty((*shape, head_dim), dtype=torch.float32, device=device))


def num_workers(num_pairs: int, num_splits: int, limits: DeviceLimits) -> int:
    """Programs for each of `num_pairs` tokens and key heads: enough to fill the device, and some to even out long rows."""
    wanted = PROGRAMS_PER_PROCESSOR * limits.num_processors // max(1, num_pairs)
    return min(num_splits, max(MIN_WORKERS, wanted))


@triton.jit
def seen_keys(token, query_starts, kv_lengths, num_rows, window, HAS_WINDOW: tl.constexpr):
    """The row of a token and the first and end position of the keys it sees; none if no row owns it."""
    row = row_of_token(token, query_starts, num_rows)
    owned = row < num_rows
    num_later = tl.load(query_starts + row + 1, mask=owned, other=0) - token - 1
    end = tl.maximum(tl.load(kv_lengths + row, mask=owned, other=0) - num_later, 0)
    end = tl.where(owned, end, 0)
    lowest = tl.maximum(end - window, 0) if HAS_WINDOW else 0
    return row, lowest, end


@triton.jit(do_not_specialize=["num_rows", "num_splits", "table_stride", "window"])
def attend_splits(
    maxima,
    totals,
    weighted,
    q,
    keys,
    values,
    query_starts,
    kv_lengths,
    page_tables,
    alibi_slopes,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid [tokens, kv_heads, workers]: leaves the parts of one token and group of heads."""
    token = tl.program_id(0)
    kv_head = tl.program_id(1)
    row, lowest, end = seen_keys(token, query_starts, kv_lengths, num_rows, window, HAS_WINDOW)
    offsets, _, head, there = query_offsets(token, kv_head, 1, q_token_stride, q_head_stride, GROUP, BLOCK_M)
    tile = load_rows(q, offsets, there, HEAD_DIM, BLOCK_D)
    position = tl.where(there, end - 1, -1)
    slope = tl.zeros([BLOCK_M], tl.float32)
    if alibi_slopes is not None:
        slope = tl.load(alibi_slopes + head, mask=there, other=0.0).to(tl.float32) * LOG2_E
    page_table = page_tables + row.to(tl.int64) * table_stride
    dim = tl.arange(0, BLOCK_D)[None, :]

    for split in range(tl.program_id(2), num_splits, tl.num_programs(2)):
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
            first_part = token.to(tl.int64) * NUM_KV_HEADS * GROUP * num_splits
            part = head * num_splits + split
            tl.store(maxima + first_part + part, part_maximum, mask=there)
            tl.store(totals + first_part + part, part_total, mask=there)
            places = part[:, None] * HEAD_DIM + dim
            tl.store(weighted + first_part * HEAD_DIM + places, part_weighted, mask=there[:, None] & (dim < HEAD_DIM))


@triton.jit(do_not_specialize=["num_rows", "num_splits", "window"])
def merge_splits(
    out,
    maxima,
    totals,
    weighted,
    query_starts,
    kv_lengths,
    sinks,
    num_rows,
    num_splits,
    window,
    HEAD_DIM: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid [tokens, heads]: writes one head's output, zeros where there is no key."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    _, lowest, end = seen_keys(token, query_starts, kv_lengths, num_rows, window, HAS_WINDOW)
    maximum = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    merged = tl.zeros([1, BLOCK_D], tl.float32)
    one = tl.arange(0, 1)
    dim = tl.arange(0, BLOCK_D)[None, :]
    first_part = (token.to(tl.int64) * tl.num_programs(1) + head) * num_splits
    for split in range(num_splits):
        first, split_end = split_keys(split, lowest, end, BLOCK_N)
        if first < split_end:
            part = first_part + split + one
            part_weighted = tl.load(weighted + part[:, None] * HEAD_DIM + dim, mask=dim < HEAD_DIM, other=0.0)
            maximum, total, merged = merge(
                maximum, total, merged, tl.load(maxima + part), tl.load(totals + part), part_weighted
            )
    sink = tl.full([1], float("-inf"), tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head + one).to(tl.float32) * LOG2_E
    row = finish(maximum, total, merged, sink)
    at = (token.to(tl.int64) * tl.num_programs(1) + head) * HEAD_DIM
    tl.store(out + at + dim, row.to(out.dtype.element_ty), mask=dim < HEAD_DIM)


def decode(inputs: Mapping[str, Any], sinks: Tensor | None, tiling: Tiling, limits: DeviceLimits) -> Tensor:
    """inputs: arguments of `attend_splits` by name, without outputs and tile sizes → [tokens, heads, head_dim]."""
    q: Tensor = inputs["q"]
    num_tokens, num_heads, head_dim = q.shape
    parts = Parts.empty(num_tokens, num_heads, inputs["num_splits"], head_dim, q.device)
    num_kv_heads = inputs["NUM_KV_HEADS"]
    workers = num_workers(num_tokens * num_kv_heads, inputs["num_splits"], limits)
    attend_splits[(num_tokens, num_kv_heads, workers)](*parts, **inputs, **tiling._asdict())
    out = q.new_empty(q.shape)
    merge_splits[(num_tokens, num_heads)](
        out,
        *parts,
        inputs["query_starts"],
        inputs["kv_lengths"],
        sinks,
        inputs["num_rows"],
        inputs["num_splits"],
        inputs["window"],
        HEAD_DIM=head_dim,
        HAS_WINDOW=inputs["HAS_WINDOW"],
        BLOCK_N=tiling.BLOCK_N,
        BLOCK_D=tiling.BLOCK_D,
        num_warps=1,
    )
    return out
