"""The activation of a gated feed-forward layer: `act(gate) * up` on the output of one fused projection."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.gated_activation import reference

SLOTS = struct.Struct("7q")  # struct gated_activation
SILU, GELU_TANH, GELU_ERF = range(3)  # as in gated_activation.c
GELUS = {"tanh": GELU_TANH, "none": GELU_ERF}


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up`, computed in float32.

    gate_up: [tokens, 2 * intermediate], the gate first, bfloat16 or float32, last dimension contiguous.
    Returns a new [tokens, intermediate] of the same dtype.
    """
    if gate_up.is_cuda:
        from kernels.gated_activation.triton import silu_and_mul as silu_in_triton

        return silu_in_triton(gate_up)
    out = _in_c(gate_up, SILU)
    return reference.silu_and_mul(gate_up) if out is None else out


def gelu_and_mul(gate_up: Tensor, approximate: str = "tanh") -> Tensor:
    """`gelu(gate) * up`, computed in float32; shapes as in `silu_and_mul`.

    approximate: "tanh" (Hendrycks and Gimpel's formula) or "none" (the error function).
    """
    if gate_up.is_cuda:
        from kernels.gated_activation.triton import gelu_and_mul as gelu_in_triton

        return gelu_in_triton(gate_up, approximate)
    out = _in_c(gate_up, GELUS[approximate])
    return reference.gelu_and_mul(gate_up, approximate) if out is None else out


def _in_c(gate_up: Tensor, activation: int) -> Tensor | None:
    run = native.function("gated_activation")
    if run is None or not gate_up.is_cpu or gate_up.dtype not in native.FLOATS:
        return None
    bf16 = gate_up.dtype is torch.bfloat16
    num_tokens, width = gate_up.shape
    out = gate_up.new_empty((num_tokens, width // 2))
    row_bytes = gate_up.stride(0) * (2 if bf16 else 4)
    run(SLOTS.pack(out.data_ptr(), gate_up.data_ptr(), num_tokens, width // 2, row_bytes, activation, bf16))
    return out
