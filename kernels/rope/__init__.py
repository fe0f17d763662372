"""Rotary position embedding of queries and keys, norms before it where there are, and the write of keys and values to pages."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.rms_norm import rms_norm
from kernels.rope import reference

SLOTS = struct.Struct("22q")  # struct rope


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
    interleaved: bool = False,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Returns q rotated, [tokens, heads, head_dim], and writes the rotated k and v to their pages; k and v stay as they are.

    Without norms q is rotated in place and is what is returned; with them its memory may be overwritten or not.

    q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim]; bfloat16 or float32, any strides (views of one fused
    buffer are meant) with a contiguous last dimension.
    cos_sin: [max_positions, rotary_dim] float32, cosines in the first half, sines in the second; rotary_dim is even, at most
    head_dim, and 0 writes without rotating. Dimensions past rotary_dim pass unchanged.
    positions: [tokens] int32. write_slots: [tokens] int32, page * page_size + offset; a negative slot writes nothing.
    key_pages, value_pages: [pages, kv_heads, page_size, head_dim], contiguous.
    interleaved: pairs are (2i, 2i + 1) as in GPT-J; otherwise (i, i + rotary_dim / 2) as in GPT-NeoX and Llama.
    q_norm, k_norm: [head_dim], both or none: `rms_norm` with `eps` of each head before it is rotated, rounded to q's dtype.
    """
    if q.is_cuda:
        from kernels.rope.triton import rope_and_write as rope_in_triton

        return rope_in_triton(
            q,
            k,
            v,
            cos_sin,
            positions,
            key_pages,
            value_pages,
            write_slots,
            interleaved=interleaved,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
        )
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    run = native.function("rope_and_write")
    dtype = q.dtype
    if run is None or not q.is_cpu or dtype not in native.FLOATS or key_pages.dtype != dtype or value_pages.dtype != dtype:
        reference.rope_and_write(q, k, v, cos_sin, positions, key_pages, value_pages, write_slots, interleaved=interleaved)
        return q
    num_tokens, num_heads, head_dim = q.shape
    bf16 = dtype is torch.bfloat16
    item_bytes = 2 if bf16 else 4
    q_token, q_head, _ = q.stride()
    k_token, k_head, _ = k.stride()
    v_token, v_head, _ = v.stride()
    run(
        SLOTS.pack(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            cos_sin.data_ptr(),
            positions.data_ptr(),
            write_slots.data_ptr(),
            key_pages.data_ptr(),
            value_pages.data_ptr(),
            num_tokens,
            num_heads,
            k.shape[1],
            head_dim,
            cos_sin.shape[1],
            key_pages.shape[2],
            q_token * item_bytes,
            q_head * item_bytes,
            k_token * item_bytes,
            k_head * item_bytes,
            v_token * item_bytes,
            v_head * item_bytes,
            interleaved,
            bf16,
        )
    )
    return q
