"""The tile that both kernels work in: some queries of a row, with all heads that share a key head, against its keys in order.

Tile row i is query i // GROUP and head i % GROUP. Blocks of keys start at multiples of BLOCK_N, whatever range is asked for;
a block of which a query sees nothing changes no bit of its result: so that depends neither on the other queries of the tile
nor on where a chunk or a window starts. Source: FlashAttention-2 (Dao, 2023), algorithm 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.paged_attention.triton.splits import finite

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def query_offsets(first_token, kv_head, num_queries, q_token_stride, q_head_stride, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Where the tile's rows start in q [tokens, heads, head_dim], which query and head each is, and which are there."""
    index = tl.arange(0, BLOCK_M)
    query = index // GROUP
    head = kv_head * GROUP + index % GROUP
    token = (first_token + query).to(tl.int64)
    return token * q_token_stride + head * q_head_stride, query, head, query < num_queries


@triton.jit
def load_rows(tensor, offsets, held, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] from `offsets` [rows] on; zeros past HEAD_DIM and where `held` [rows] is false, which is not read."""
    dim = tl.arange(0, BLOCK_D)
    mask = held[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (dim < HEAD_DIM)[None, :]
    return tl.load(tensor + offsets[:, None] + dim[None, :], mask=mask, other=0.0)


@triton.jit
def key_offsets(
    start,
    held,
    page_table,
    kv_head,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Where the BLOCK_N keys from position `start` on lie in the pages: elements, [BLOCK_N]."""
    at = start + tl.arange(0, BLOCK_N)
    if PAGE_SIZE % BLOCK_N == 0:  # the block lies in one page: one number to read
        page = tl.load(page_table + start // PAGE_SIZE).to(tl.int64)
    else:
        page = tl.load(page_table + at // PAGE_SIZE, mask=held, other=0).to(tl.int64)
    return ((page * NUM_KV_HEADS + kv_head) * PAGE_SIZE + at % PAGE_SIZE) * HEAD_DIM


@triton.jit
def scores_of(q, k, qk_scale, cap, HAS_SOFTCAP: tl.constexpr):
    """Scores times log2(e), [rows, keys]. With a soft cap, tanh(x) = 1 - 2 / (exp(2 x) + 1)."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * qk_scale
    if HAS_SOFTCAP:
        scores = cap - 2.0 * cap / (tl.exp2(scores) + 1.0)
    return scores


@triton.jit
def add_keys(maximum, total, weighted, scores, v):
    """One step of a softmax over keys: scores [rows, keys], times log2(e) and -inf where not seen; v [keys, BLOCK_D]."""
    new_maximum = tl.maximum(maximum, tl.max(scores, 1))
    shift = finite(new_maximum)
    kept = tl.exp2(maximum - shift)
    weights = tl.exp2(scores - shift[:, None])
    total = tl.fma(total, kept, tl.sum(weights, 1))
    weighted = tl.dot(weights.to(v.dtype), v, weighted * kept[:, None], input_precision="ieee")
    return new_maximum, total, weighted


@triton.jit
def attend(
    q,
    position,
    slope,
    keys,
    values,
    page_table,
    kv_head,
    first,
    end,
    lowest,
    qk_scale,
    cap,
    window,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One part of the softmax: maximum [BLOCK_M], sum [BLOCK_M] and weighted values [BLOCK_M, BLOCK_D] over some keys.

    q: [BLOCK_M, BLOCK_D]; position: [BLOCK_M], -1 for a row that is not there; slope: [BLOCK_M], times log2(e).
    The keys are those from `first`, a multiple of BLOCK_N, to `end`; those before `lowest` no row sees, and they are not read.
    """
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in tl.range(first, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        held = (at >= lowest) & (at < end)
        offsets = key_offsets(start, held, page_table, kv_head, NUM_KV_HEADS, PAGE_SIZE, HEAD_DIM, BLOCK_N)
        k = load_rows(keys, offsets, held, HEAD_DIM, BLOCK_D).to(q.dtype)
        v = load_rows(values, offsets, held, HEAD_DIM, BLOCK_D).to(q.dtype)

        distance = position[:, None] - at[None, :]
        seen = (distance >= 0) & held[None, :]
        if HAS_WINDOW:
            seen = seen & (distance < window)
        scores = scores_of(q, k, qk_scale, cap, HAS_SOFTCAP)
        if HAS_ALIBI:
            scores = scores - slope[:, None] * distance
        scores = tl.where(seen, scores, float("-inf"))

        maximum, total, weighted = add_keys(maximum, total, weighted, scores, v)
    return maximum, total, weighted
