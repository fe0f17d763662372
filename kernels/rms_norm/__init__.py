"""RMS normalisation, alone or fused with the residual addition before it."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.rms_norm import reference

SLOTS = struct.Struct("9qd2q")  # struct rms_norm


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight`, computed in float32.

    x: [tokens, hidden], or [tokens, heads, hidden] normalised per head, bfloat16 or float32, all but the first dimension
    contiguous. weight: [hidden] bfloat16 or float32, contiguous.
    Returns a new tensor like x. A token's result does not depend on the other tokens.
    """
    if x.is_cuda:
        from kernels.rms_norm.triton import rms_norm as rms_norm_in_triton

        return rms_norm_in_triton(x, weight, eps)
    run = native.function("rms_norm")
    if run is None or not x.is_cpu or x.dtype not in native.FLOATS or weight.dtype not in native.FLOATS:
        return reference.rms_norm(x, weight, eps)
    num_tokens, hidden = x.shape[0], x.shape[-1]
    num_heads = x.shape[1] if x.dim() == 3 else 1
    bf16 = x.dtype is torch.bfloat16
    out = x.new_empty(x.shape)
    run(
        SLOTS.pack(
            out.data_ptr(),
            x.data_ptr(),
            0,
            weight.data_ptr(),
            num_tokens * num_heads,
            hidden,
            num_heads,
            x.stride(0) * (2 if bf16 else 4),
            0,
            eps,
            bf16,
            weight.dtype is torch.bfloat16,
        )
    )
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Adds `x` to `residual` in place and returns `rms_norm(residual, weight, eps)`.

    x, residual: [tokens, hidden], one dtype. The sum is rounded to that dtype before it is normalised.
    """
    if x.is_cuda:
        from kernels.rms_norm.triton import add_rms_norm as add_rms_norm_in_triton

        return add_rms_norm_in_triton(x, residual, weight, eps)
    run = native.function("rms_norm")
    dtype = x.dtype
    if (
        run is None
        or not x.is_cpu
        or dtype not in native.FLOATS
        or residual.dtype != dtype
        or weight.dtype not in native.FLOATS
    ):
        return reference.add_rms_norm(x, residual, weight, eps)
    num_tokens, hidden = x.shape
    bf16 = dtype is torch.bfloat16
    item_bytes = 2 if bf16 else 4
    out = torch.empty_like(x)
    run(
        SLOTS.pack(
            out.data_ptr(),
            x.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
            num_tokens,
            hidden,
            1,
            x.stride(0) * item_bytes,
            residual.stride(0) * item_bytes,
            eps,
            bf16,
            weight.dtype is torch.bfloat16,
        )
    )
    return out
