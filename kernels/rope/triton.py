"""Rotary embedding in Triton, with the norms of queries and keys before it and the write of keys and values after it.

A program turns some heads of one token, whole heads, so that a norm needs nothing of another program: first the programs of
the queries, then those of the keys, which write the values too.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MAX_TILE = 1024
"""Elements of a program, as far as heads can be left out."""


def rope_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    write_slots: Tensor,
    *,
    interleaved: bool,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """See `kernels.rope.rope_and_write`; any float dtypes. Changes q in place and returns it."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, rotary_dim = k.shape[1], cos_sin.shape[1]
    if num_tokens == 0:
        return q
    tile_heads = max(min(MAX_TILE // triton.next_power_of_2(head_dim), triton.next_power_of_2(num_kv_heads)), 1)
    num_query_tiles = triton.cdiv(num_heads, tile_heads)
    _rope_and_write[num_tokens, num_query_tiles + triton.cdiv(num_kv_heads, tile_heads)](
        q,
        k,
        v,
        q_norm,
        k_norm,
        cos_sin,
        positions,
        key_pages,
        value_pages,
        write_slots,
        *q.stride()[:2],
        *k.stride()[:2],
        *v.stride()[:2],
        eps,
        num_heads,
        num_kv_heads,
        num_query_tiles,
        key_pages.shape[2],
        HEAD_DIM=head_dim,
        HALF=rotary_dim // 2,
        TILE_HEADS=tile_heads,
        TILE_DIM=triton.next_power_of_2(head_dim),
        TILE_HALF=triton.next_power_of_2(max(rotary_dim // 2, 1)),
        TILE_REST=triton.next_power_of_2(max(head_dim - rotary_dim, 1)),
        INTERLEAVED=interleaved,
        NORMS=q_norm is not None,
        num_warps=4 if tile_heads * head_dim > 256 else 1,
    )
    return q


@triton.jit
def _rope_and_write(
    q_ptr,
    k_ptr,
    v_ptr,
    q_norm_ptr,
    k_norm_ptr,
    cos_sin_ptr,
    positions_ptr,
    key_pages_ptr,
    value_pages_ptr,
    write_slots_ptr,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    eps,
    num_heads,
    num_kv_heads,
    num_query_tiles,
    page_size,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    TILE_DIM: tl.constexpr,
    TILE_HALF: tl.constexpr,
    TILE_REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORMS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    cos_sin_ptr += tl.load(positions_ptr + token).to(tl.int64) * 2 * HALF
    if tile < num_query_tiles:
        heads = tile * TILE_HEADS + tl.arange(0, TILE_HEADS)[:, None]  # [heads, 1]
        rows_ptr = q_ptr + token * q_token + heads * q_head
        inside = heads < num_heads
        _turn(
            rows_ptr, rows_ptr, inside, q_norm_ptr, cos_sin_ptr, eps, HEAD_DIM, HALF, TILE_HALF, TILE_REST, INTERLEAVED, NORMS
        )
    else:
        slot = tl.load(write_slots_ptr + token).to(tl.int64)
        if slot >= 0:
            heads = (tile - num_query_tiles) * TILE_HEADS + tl.arange(0, TILE_HEADS)[:, None]
            inside = heads < num_kv_heads
            places = ((slot // page_size * num_kv_heads + heads) * page_size + slot % page_size) * HEAD_DIM  # [heads, 1]
            keys_ptr = k_ptr + token * k_token + heads * k_head
            out_ptr = key_pages_ptr + places
            _turn(
                keys_ptr,
                out_ptr,
                inside,
                k_norm_ptr,
                cos_sin_ptr,
                eps,
                HEAD_DIM,
                HALF,
                TILE_HALF,
                TILE_REST,
                INTERLEAVED,
                NORMS,
            )
            dims = tl.arange(0, TILE_DIM)[None, :]
            whole = inside & (dims < HEAD_DIM)
            values = tl.load(v_ptr + token * v_token + heads * v_head + dims, mask=whole)
            tl.store(value_pages_ptr + places + dims, values.to(value_pages_ptr.dtype.element_ty), mask=whole)


@triton.jit
def _turn(
    rows_ptr,
    out_ptr,
    is_head,
    norm_ptr,
    cos_sin_ptr,
    eps,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    TILE_HALF: tl.constexpr,
    TILE_REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORMS: tl.constexpr,
):
    """Norms and turns the heads at `rows_ptr` [heads, 1] and writes them to `out_ptr` [heads, 1]."""
    pairs = tl.arange(0, TILE_HALF)[None, :]
    first_dims = pairs * 2 if INTERLEAVED else pairs
    second_dims = pairs * 2 + 1 if INTERLEAVED else pairs + HALF
    rest_dims = 2 * HALF + tl.arange(0, TILE_REST)[None, :]
    is_pair, is_rest = is_head & (pairs < HALF), is_head & (rest_dims < HEAD_DIM)
    first = tl.load(rows_ptr + first_dims, mask=is_pair, other=0.0)  # [heads, pairs]
    second = tl.load(rows_ptr + second_dims, mask=is_pair, other=0.0)
    rest = tl.load(rows_ptr + rest_dims, mask=is_rest, other=0.0)
    if NORMS:
        squares = _squares(first) + _squares(second) + _squares(rest)  # [heads]
        scales = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        first = _scale(first, scales, norm_ptr + first_dims, pairs < HALF)
        second = _scale(second, scales, norm_ptr + second_dims, pairs < HALF)
        rest = _scale(rest, scales, norm_ptr + rest_dims, rest_dims < HEAD_DIM)
    cos = tl.load(cos_sin_ptr + pairs, mask=pairs < HALF, other=0.0)
    sin = tl.load(cos_sin_ptr + HALF + pairs, mask=pairs < HALF, other=0.0)
    first, second = first.to(tl.float32), second.to(tl.float32)
    dtype = out_ptr.dtype.element_ty
    tl.debug_barrier()  # queries are turned in place, and a small tile is read by more threads than those that write it
    tl.store(out_ptr + first_dims, (first * cos - second * sin).to(rows_ptr.dtype.element_ty).to(dtype), mask=is_pair)
    tl.store(out_ptr + second_dims, (second * cos + first * sin).to(rows_ptr.dtype.element_ty).to(dtype), mask=is_pair)
    tl.store(out_ptr + rest_dims, rest.to(dtype), mask=is_rest)


@triton.jit
def _squares(x):
    return tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)


@triton.jit
def _scale(x, scales, weight_ptr, inside):
    """Normed and rounded to x's dtype, as a norm of its own would be."""
    weight = tl.load(weight_ptr, mask=inside, other=0.0).to(tl.float32)
    return (x.to(tl.float32) * scales * weight).to(x.dtype)
