"""Linear layers whose weights stay packed in 4 or 8 bits, with activations rounded to 8 or 16 bits in blocks of 32.

The products are exact integers and the blocks are summed in order, so a row's result has the same bits in any batch, on any
number of threads. Rounding activations to 8 bits costs about 0.7 % per product, bfloat16's own rounding 0.3 %, that to 16 bits
nothing that can be seen.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.quantized_linear import reference
from kernels.quantized_linear.packing import GGUF_TYPES, TILE, PackedWeight, pack, quantize, unpack_rows

__all__ = ["GGUF_TYPES", "PackedWeight", "pack", "packed_rows", "quantize", "quantized_linear", "unpack_rows"]

SLOTS = struct.Struct("15q")  # struct linear
ROWS_SLOTS = struct.Struct("10q")  # struct packed_rows


def quantized_linear(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    activation_bits: int = 8,
    num_narrow: int = 0,
) -> Tensor:
    """`x @ weight.T + bias`. Returns a new [rows, outputs] of `out_dtype`, or of x's dtype.

    x: [rows, inputs] bfloat16 or float32, contiguous last dimension. bias: [outputs] float32.
    activation_bits: 8 or 16. num_narrow: with 16, the first so many outputs, a multiple of 16, meet 8 bits all the same.
    """
    assert num_narrow % TILE == 0, num_narrow
    out_dtype = out_dtype or x.dtype
    run = native.function("quantized_linear")
    if run is None or not x.is_cpu or x.dtype not in native.FLOATS or out_dtype not in native.FLOATS:
        return reference.quantized_linear(x, packed, bias, out_dtype, activation_bits, num_narrow)
    num_rows = x.shape[0]
    bf16 = x.dtype is torch.bfloat16
    out = x.new_empty((num_rows, packed.num_outputs), dtype=out_dtype)
    failed = run(
        SLOTS.pack(
            out.data_ptr(),
            x.data_ptr(),
            packed.quants.data_ptr(),
            packed.scales.data_ptr(),
            0 if packed.minima is None else packed.minima.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            num_rows,
            packed.num_inputs,
            packed.num_outputs,
            x.stride(0) * (2 if bf16 else 4),
            packed.bits,
            packed.zero_point,
            bf16,
            out_dtype is torch.bfloat16,
            packed.num_outputs if activation_bits == 8 else num_narrow,
        )
    )
    if failed:
        raise MemoryError("no memory for the rounded activations of a linear layer")
    return out


def packed_rows(packed: PackedWeight, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The given rows (outputs) of a weight as plain numbers: [rows, inputs] of `dtype`. rows: int64, inside the weight."""
    run = native.function("packed_rows")
    if run is None or not rows.is_cpu or rows.dtype is not torch.int64 or dtype not in native.FLOATS:
        return unpack_rows(packed, rows).to(dtype)
    rows = rows.contiguous()
    out = torch.empty((len(rows), packed.num_inputs), dtype=dtype)
    run(
        ROWS_SLOTS.pack(
            out.data_ptr(),
            rows.data_ptr(),
            packed.quants.data_ptr(),
            packed.scales.data_ptr(),
            0 if packed.minima is None else packed.minima.data_ptr(),
            len(rows),
            packed.num_inputs,
            packed.bits,
            packed.zero_point,
            dtype is torch.bfloat16,
        )
    )
    return out
