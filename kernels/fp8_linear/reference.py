"""The 8-bit product in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
LARGEST = 448.0
"""Of e4m3."""


def fp8_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [rows, inputs] quantized, times weight [outputs, inputs] times its blocks' scales, summed in float32, plus bias."""
    num_outputs, num_inputs = weight.shape
    values, row_scales = quantize(x)
    wide = values.float() * row_scales.repeat_interleave(BLOCK, dim=1)[:, :num_inputs]  # [rows, inputs]
    block_scales = scales.repeat_interleave(BLOCK, dim=0)[:num_outputs].repeat_interleave(BLOCK, dim=1)[:, :num_inputs]
    product = wide @ (weight.float() * block_scales).T  # [rows, outputs]
    return (product if bias is None else product + bias.float()).to(x.dtype)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values [rows, inputs] float8_e4m3fn and scales [rows, groups] float32, by the largest value of each group."""
    num_rows, num_inputs = x.shape
    padded = torch.nn.functional.pad(x.float(), (0, -num_inputs % BLOCK))
    groups = padded.view(num_rows, padded.shape[1] // BLOCK, BLOCK)  # [rows, groups, 128]
    largest = groups.abs().amax(dim=2)  # [rows, groups]
    scales = torch.where(largest == 0, 1.0, largest / LARGEST)
    values = (groups / scales[:, :, None]).to(torch.float8_e4m3fn)
    return values.flatten(1)[:, :num_inputs].contiguous(), scales
