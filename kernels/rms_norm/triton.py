"""RMS normalisation in Triton: one program per row, whose sum is the same whatever the number of rows.

The tile follows from the width alone. A row that fits in one tile is read once and kept in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BLOCK = 8192
"""Wider rows go through in several tiles, and are read twice."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `kernels.rms_norm.rms_norm`; any float dtypes."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    num_heads = x.shape[1] if x.dim() == 3 else 1
    _launch(out, x, None, weight, eps, num_heads)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `kernels.rms_norm.add_rms_norm`; any float dtypes."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(out, x, residual, weight, eps, 1)
    return out


def _launch(out: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, num_heads: int) -> None:
    if out.numel() == 0:
        return
    hidden = x.shape[-1]
    block = min(triton.next_power_of_2(hidden), MAX_BLOCK)
    _rms_norm[x.shape[0] * num_heads,](
        out,
        x,
        residual,
        weight,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        num_heads,
        eps,
        HIDDEN=hidden,
        BLOCK=block,
        ADDS=residual is not None,
        num_warps=min(max(block // 512, 1), 16),
    )


@triton.jit
def _rms_norm(
    out_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    x_stride,
    residual_stride,
    num_heads,
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row // num_heads * x_stride + row % num_heads * HIDDEN
    out_ptr += row * HIDDEN
    if ADDS:
        residual_ptr += row * residual_stride
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in tl.static_range(0, HIDDEN, BLOCK):
        places = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + places, mask=places < HIDDEN, other=0.0)
        if ADDS:
            residual = tl.load(residual_ptr + places, mask=places < HIDDEN, other=0.0)
            x = (residual.to(tl.float32) + x.to(tl.float32)).to(residual.dtype)
            tl.store(residual_ptr + places, x, mask=places < HIDDEN)
        squares += x.to(tl.float32) * x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(squares, axis=0) / HIDDEN + eps)
    if HIDDEN <= BLOCK:
        _store(out_ptr, x, weight_ptr, scale, 0, HIDDEN, BLOCK)
    else:
        tl.debug_barrier()  # what other threads stored
        for start in tl.static_range(0, HIDDEN, BLOCK):
            places = start + tl.arange(0, BLOCK)
            if ADDS:
                x = tl.load(residual_ptr + places, mask=places < HIDDEN, other=0.0)
            else:
                x = tl.load(x_ptr + places, mask=places < HIDDEN, other=0.0)
            _store(out_ptr, x, weight_ptr, scale, start, HIDDEN, BLOCK)


@triton.jit
def _store(out_ptr, x, weight_ptr, scale, start, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    places = start + tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + places, mask=places < HIDDEN, other=0.0)
    normed = x.to(tl.float32) * scale * weight.to(tl.float32)
    tl.store(out_ptr + places, normed.to(out_ptr.dtype.element_ty), mask=places < HIDDEN)
