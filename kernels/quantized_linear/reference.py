"""Quantized linear in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.quantized_linear.packing import BLOCK, PackedWeight, unpack_rows

LIMITS = {8: 127.0, 16: 127.0 * 256}  # the largest integer for so many bits


def round_activations(x: Tensor, bits: int) -> Tensor:
    """x [rows, inputs] rounded to integers in blocks of 32 and widened again: what the kernel multiplies. float32."""
    limit = LIMITS[bits]
    blocks = x.float().reshape(x.shape[0], x.shape[1] // BLOCK, BLOCK)
    peaks = blocks.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(peaks > 0, torch.full_like(peaks, limit) / peaks, 0.0)  # a division, not a product with a reciprocal
    return ((blocks * inverse).round() * (peaks / limit)).flatten(1)


def quantized_linear(
    x: Tensor, packed: PackedWeight, bias: Tensor | None, out_dtype: torch.dtype, activation_bits: int = 8
) -> Tensor:
    """See `kernels.quantized_linear.quantized_linear`."""
    weight = unpack_rows(packed, torch.arange(packed.num_outputs))  # [outputs, inputs]
    return functional.linear(round_activations(x, activation_bits), weight, None if bias is None else bias.float()).to(
        out_dtype
    )
