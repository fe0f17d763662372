"""Gated activations in Triton: one program per tile of a row, each element for itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.gated_activation.silu_and_mul`; any float dtype."""
    return _launch(gate_up, "silu")


def gelu_and_mul(gate_up: Tensor, approximate: str) -> Tensor:
    """See `kernels.gated_activation.gelu_and_mul`; any float dtype."""
    return _launch(gate_up, {"tanh": "gelu_tanh", "none": "gelu"}[approximate])


def _launch(gate_up: Tensor, activation: str) -> Tensor:
    num_tokens, width = gate_up.shape
    intermediate = width // 2
    out = torch.empty((num_tokens, intermediate), dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        grid = (num_tokens, triton.cdiv(intermediate, BLOCK))
        _gate[grid](out, gate_up, gate_up.stride(0), intermediate, ACTIVATION=activation, BLOCK=BLOCK, num_warps=4)
    return out


@triton.jit
def _gate(out_ptr, gate_up_ptr, stride, intermediate, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < intermediate
    gate = tl.load(gate_up_ptr + row * stride + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * stride + intermediate + places, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        active = gate * _sigmoid(gate)
    elif ACTIVATION == "gelu":
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:  # (1 + tanh(y)) / 2 is the sigmoid of 2y
        active = gate * _sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    tl.store(out_ptr + row * intermediate + places, (active * up).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _sigmoid(x):
    small = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0.0, 1.0, small) / (1.0 + small)
