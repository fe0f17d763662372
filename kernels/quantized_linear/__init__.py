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
from kernels.argmax import argmax
from kernels.quantized_linear import reference
from kernels.quantized_linear.packing import GGUF_TYPES, TILE, PackedWeight, pack, quantize, unpack_rows

__all__ = [
    "GGUF_TYPES",
    "PackedWeight",
    "pack",
    "packed_rows",
    "quantize",
    "quantized_linear",
    "quantized_linear_argmax",
    "unpack_rows",
]

SLOTS = struct.Struct("16q")  # struct linear
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
    out = x.new_empty((x.shape[0], packed.num_outputs), dtype=out_dtype)
    num_narrow = packed.num_outputs if activation_bits == 8 else num_narrow
    _check(run(_arguments(x, packed, bias, num_narrow, out=out)))
    return out


def quantized_linear_argmax(x: Tensor, packed: PackedWeight, bias: Tensor | None = None, *, activation_bits: int = 8) -> Tensor:
    """The first index of the largest output of each row, [rows] int64; -1 for a row with a NaN or +inf, or without a number.

    As of `quantized_linear` with float32 results, which are not stored.
    """
    run = native.function("quantized_linear")
    if run is None or not x.is_cpu or x.dtype not in native.FLOATS:
        return argmax(reference.quantized_linear(x, packed, bias, torch.float32, activation_bits, 0))
    ids = x.new_empty((x.shape[0],), dtype=torch.int64)
    _check(run(_arguments(x, packed, bias, packed.num_outputs if activation_bits == 8 else 0, ids=ids)))
    return ids


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the rounded activations of a linear layer")


def _arguments(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None,
    num_narrow: int,
    *,
    out: Tensor | None = None,
    ids: Tensor | None = None,
) -> bytes:
    bf16 = x.dtype is torch.bfloat16
    return SLOTS.pack(
        0 if out is None else out.data_ptr(),
        x.data_ptr(),
        packed.quants.data_ptr(),
        packed.scales.data_ptr(),
        0 if packed.minima is None else packed.minima.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        x.shape[0],
        packed.num_inputs,
        packed.num_outputs,
        x.stride(0) * (2 if bf16 else 4),
        packed.bits,
        packed.zero_point,
        bf16,
        out is not None and out.dtype is torch.bfloat16,
        num_narrow,
        0 if ids is None else ids.data_ptr(),
    )


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
