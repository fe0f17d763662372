"""Causal attention of a ragged batch over paged keys and values: decode rows and prefill rows in one call."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.paged_attention import reference

SLOTS = struct.Struct("19q2d")  # struct attention
MAX_HEAD_DIM = 256


def paged_attention(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    page_tables: Tensor,
    scale: float,
    *,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    invariant: bool = False,
) -> Tensor:
    """Softmax attention of every token over the keys of its row up to itself. Returns a new [tokens, heads, head_dim].

    CUDA tensors go to Triton, which also takes float16. Decode rows and prefill rows may be mixed in one call. The bits of a
    token's output do not depend on the other rows or on where chunks start; but a step with no more tokens than rows has a
    kernel of its own on CUDA, and only `invariant` gives a token the same bits in that one and in others, for some speed.

    q: [tokens, heads, head_dim] bfloat16 or float32, contiguous last dimension; heads is a multiple of kv_heads.
    key_pages, value_pages: [pages, kv_heads, page_size, head_dim], contiguous.
    query_starts: [rows + 1] int32, row r owns tokens query_starts[r] to query_starts[r + 1].
    kv_lengths: [rows] int32, keys of the row, this step's tokens included: a row's queries are its last tokens.
    page_tables: [rows, max_pages] int32, the pages of each row in order; entries past its length are not read.
    scale multiplies the scores. softcap c > 0 then maps them to c * tanh(score / c). alibi_slopes: [heads] float32, times the
    distance to the key, subtracted. window w > 0: a token sees itself and the w - 1 tokens before it.
    sinks: [heads] float32, one logit per head that joins the softmax's denominator.
    """
    if q.is_cuda:
        from kernels.paged_attention import triton

        return triton.paged_attention(
            q,
            key_pages,
            value_pages,
            query_starts,
            kv_lengths,
            page_tables,
            scale,
            window=window,
            softcap=softcap,
            sinks=sinks,
            alibi_slopes=alibi_slopes,
            invariant=invariant,
        )
    run = native.function("paged_attention")
    if run is None or not _fits(q, key_pages, value_pages):
        return reference.paged_attention(
            q,
            key_pages,
            value_pages,
            query_starts,
            kv_lengths,
            page_tables,
            scale,
            window=window,
            softcap=softcap,
            sinks=sinks,
            alibi_slopes=alibi_slopes,
        )
    num_tokens, num_heads, head_dim = q.shape
    _, num_kv_heads, page_size, _ = key_pages.shape
    bf16 = q.dtype is torch.bfloat16
    item_bytes = 2 if bf16 else 4
    q_token, q_head, _ = q.stride()
    out = q.new_empty((num_tokens, num_heads, head_dim))
    failed = run(
        SLOTS.pack(
            out.data_ptr(),
            q.data_ptr(),
            key_pages.data_ptr(),
            value_pages.data_ptr(),
            query_starts.data_ptr(),
            kv_lengths.data_ptr(),
            page_tables.data_ptr(),
            0 if sinks is None else sinks.data_ptr(),
            0 if alibi_slopes is None else alibi_slopes.data_ptr(),
            kv_lengths.shape[0],
            num_heads,
            num_kv_heads,
            head_dim,
            page_size,
            page_tables.stride(0),
            q_token * item_bytes,
            q_head * item_bytes,
            window,
            bf16,
            scale,
            softcap,
        )
    )
    if failed:
        raise MemoryError("no memory for the plan of a paged attention")
    return out


def _fits(q: Tensor, key_pages: Tensor, value_pages: Tensor) -> bool:
    dtype = q.dtype
    same = key_pages.dtype == dtype and value_pages.dtype == dtype
    return q.is_cpu and same and dtype in native.FLOATS and q.shape[2] <= MAX_HEAD_DIM
