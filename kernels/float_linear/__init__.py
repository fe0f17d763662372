"""Products with plain weights, bfloat16 or float32, packed for our own threads.

Unlike oneDNN's and MKL's, a row's result has the same bits alone and among others, and nobody waits for OpenMP.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.float_linear.packing import PackedPanels, pack_panels

__all__ = ["PackedPanels", "float_linear", "pack_panels"]

SLOTS = struct.Struct("10q")  # struct float_linear


def float_linear(
    x: Tensor, weight: PackedPanels, bias: Tensor | None = None, *, out_dtype: torch.dtype | None = None
) -> Tensor:
    """x [tokens, inputs], of the weight's dtype, last dimension contiguous → [tokens, outputs] rounded to the same.

    bias: [outputs] float32 or None. out_dtype: float32 stores the rounded numbers in a wider type. Needs the compiled kernels.
    """
    run = native.function("float_linear")
    assert run is not None, "weights are packed only where the kernel is"
    bf16 = x.dtype is torch.bfloat16
    out = torch.empty(x.shape[0], weight.num_outputs, dtype=out_dtype or x.dtype)
    run(
        SLOTS.pack(
            out.data_ptr(),
            x.data_ptr(),
            weight.values.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            x.shape[0],
            weight.num_inputs,
            weight.num_outputs,
            x.stride(0) * x.element_size(),
            bf16,
            out.dtype is torch.bfloat16,
        )
    )
    return out
