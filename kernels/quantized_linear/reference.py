"""Quantized linear in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.quantized_linear.packing import BLOCK, PackedWeight, unpack_rows

LIMITS = {8: 127.0, 16: 127.0 * 256}  # the largest integer for so many bits
BETWEEN_LEVELS = (1 << 21) - 1  # a float's last bits, those that a scale does not have
LOWEST_SCALE = 2.0**-100
MIDDLE = 8  # of 4-bit quants


def round_activations(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """x [rows, inputs] in blocks of 32 as integers [rows, blocks, 32] and scales [rows, blocks, 1], both float32.

    A scale is the least 1, 1.25, 1.5 or 1.75 times a power of two that takes the block into `bits` bits: the product needs
    no multiplication for the power, and few different ones for the rest.
    """
    blocks = x.float().reshape(x.shape[0], x.shape[1] // BLOCK, BLOCK)
    peaks = blocks.abs().amax(dim=-1, keepdim=True)
    raised = (peaks / LIMITS[bits]).view(torch.int32) + BETWEEN_LEVELS
    scales = (raised & ~BETWEEN_LEVELS).view(torch.float32).clamp(min=LOWEST_SCALE)
    return (blocks * (1 / scales)).round(), scales


def quantized_linear(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    activation_bits: int = 8,
    num_narrow: int = 0,
) -> Tensor:
    """See `kernels.quantized_linear.quantized_linear`."""
    product = _product(x, packed, activation_bits)
    if num_narrow:
        product[:, :num_narrow] = _product(x, packed, 8)[:, :num_narrow]
    return (product if bias is None else product + bias.float()).to(out_dtype)


def _product(x: Tensor, packed: PackedWeight, activation_bits: int) -> Tensor:
    weight = unpack_rows(packed, torch.arange(packed.num_outputs))  # [outputs, inputs]
    integers, scales = round_activations(x, activation_bits)
    rounded = (integers * scales).flatten(1)  # [rows, inputs]
    if packed.minima is None or activation_bits == 16:
        return functional.linear(rounded, weight)
    minima = _minima(packed)  # [outputs, blocks]
    totals = (scales * integers.sum(dim=-1, keepdim=True)).squeeze(-1)  # [rows, blocks]
    product = functional.linear(rounded, weight - minima.repeat_interleave(BLOCK, dim=1))
    return product + functional.linear(totals.bfloat16().float(), minima.bfloat16().float())


def _minima(packed: PackedWeight) -> Tensor:
    """What weights have beside scale * (quant - 8): [outputs, blocks] float32. It is small, and bfloat16 will do for it."""
    assert packed.minima is not None
    minima = packed.minima.float() + MIDDLE * packed.scales.float()  # [tiles, blocks, 16]
    return minima.transpose(1, 2).flatten(0, 1)[: packed.num_outputs]
