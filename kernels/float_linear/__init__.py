"""Products with plain weights, bfloat16 or float32, packed for our own threads.

Unlike oneDNN's and MKL's, a row's result has the same bits alone and among others, and nobody waits for OpenMP.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.float_linear.packing import PackedPanels, pack_panels

__all__ = ["PackedPanels", "float_linear", "float_linear_argmax", "pack_panels"]

SLOTS = struct.Struct("11q")  # struct float_linear


def float_linear(
    x: Tensor, weight: PackedPanels, bias: Tensor | None = None, *, out_dtype: torch.dtype | None = None
) -> Tensor:
    """x [tokens, inputs], of the weight's dtype, last dimension contiguous → [tokens, outputs] rounded to the same.

    bias: [outputs] float32 or None. out_dtype: float32 stores the rounded numbers in a wider type. Needs the compiled kernels.
    """
    out = torch.empty(x.shape[0], weight.num_outputs, dtype=out_dtype or x.dtype)
    _run(x, weight, bias, out=out)
    return out


def float_linear_argmax(x: Tensor, weight: PackedPanels, bias: Tensor | None = None) -> Tensor:
    """The first index of the largest of `float_linear`'s outputs of each row, which are not stored: [rows] int64.

    -1 for a row with a NaN or +inf, or without a number.
    """
    ids = torch.empty(x.shape[0], dtype=torch.int64)
    _run(x, weight, bias, ids=ids)
    return ids


def _run(x: Tensor, weight: PackedPanels, bias: Tensor | None, *, out: Tensor | None = None, ids: Tensor | None = None) -> None:
    run = native.function("float_linear")
    assert run is not None, "weights are packed only where the kernel is"
    failed = run(
        SLOTS.pack(
            0 if out is None else out.data_ptr(),
            x.data_ptr(),
            weight.values.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            x.shape[0],
            weight.num_inputs,
            weight.num_outputs,
            x.stride(0) * x.element_size(),
            x.dtype is torch.bfloat16,
            out is not None and out.dtype is torch.bfloat16,
            0 if ids is None else ids.data_ptr(),
        )
    )
    if failed:
        raise MemoryError("no memory for the largest outputs of a linear layer")
