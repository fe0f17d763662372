"""The 8-bit product in Triton. One step of the loop is one block of the weight, so that its scale is one number.

The tensor cores of Hopper add 8-bit products with fewer bits than float32 has. The sum of a block is taken from them and added
in float32 every 128 inputs, as DeepSeek-V3 does. Inputs are cut in slices as in the batch-invariant product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.fp8_linear.reference import BLOCK, LARGEST
from kernels.invariant_linear.triton import (
    GROUP_ROW_TILES,
    TARGET_PROGRAMS,
    Tiling,
    add_slices,
    slices_of,
    tile_in_groups,
)

TILING = Tiling(rows=64, outputs=BLOCK, inputs=BLOCK, num_warps=4, num_stages=4)


def fp8_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """See the package."""
    num_rows, num_outputs = x.shape[0], weight.shape[0]
    out = x.new_empty(num_rows, num_outputs)
    if num_rows == 0:
        return out
    num_tiles = triton.cdiv(num_rows, TILING.rows) * triton.cdiv(num_outputs, TILING.outputs)
    num_slices = slices_of(num_outputs, x.shape[1], TILING)
    values, row_scales = quantize(x)
    if num_slices == 1 or num_tiles >= TARGET_PROGRAMS:
        _multiply(values, row_scales, weight, scales, bias, out, num_tiles, num_slices, is_split=False)
        return out
    partial = torch.empty(num_slices, num_rows, num_outputs, dtype=torch.float32, device=x.device)
    _multiply(values, row_scales, weight, scales, None, partial, num_tiles, num_slices, is_split=True)
    add_slices(partial, bias, out)
    return out


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """See the package."""
    num_rows, num_inputs = x.shape
    num_groups = triton.cdiv(num_inputs, BLOCK)
    values = torch.empty(num_rows, num_inputs, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(num_rows, num_groups, dtype=torch.float32, device=x.device)
    if num_rows:
        _quantize_group[(num_rows, num_groups)](
            x,
            values,
            scales,
            num_inputs,
            x.stride(0),
            ROUNDS_FIRST=triton.knobs.runtime.interpret,
            LARGEST=LARGEST,
            BLOCK=BLOCK,
            num_warps=1,
        )
    return values, scales


def _multiply(
    values: Tensor,
    row_scales: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    out: Tensor,
    num_tiles: int,
    num_slices: int,
    *,
    is_split: bool,
) -> None:
    """out: [rows, outputs], or with `is_split` [slices, rows, outputs]."""
    num_blocks = scales.shape[1]
    _multiply_tile[(num_tiles, num_slices if is_split else 1)](
        values,
        row_scales,
        weight,
        scales,
        bias,
        out,
        values.shape[0],
        weight.shape[0],
        values.shape[1],
        num_blocks,
        triton.cdiv(num_blocks, num_slices),
        NUM_SLICES=1 if is_split else num_slices,
        IS_EVEN=values.shape[1] % BLOCK == 0,
        ROWS=TILING.rows,
        BLOCK=BLOCK,
        GROUP=GROUP_ROW_TILES,
        num_warps=TILING.num_warps,
        num_stages=TILING.num_stages,
    )


@triton.jit
def _quantize_group(
    x, values, scales, num_inputs, x_stride, ROUNDS_FIRST: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):
    """One group of one row."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inputs = group * BLOCK + tl.arange(0, BLOCK)
    numbers = tl.load(x + row * x_stride + inputs, mask=inputs < num_inputs, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(numbers), axis=0)
    scale = tl.where(largest == 0.0, 1.0, tl.div_rn(largest, LARGEST))
    numbers = tl.div_rn(numbers, scale)
    if ROUNDS_FIRST:
        numbers = _rounded(numbers)
    tl.store(values + row * num_inputs + inputs, numbers.to(values.dtype.element_ty), mask=inputs < num_inputs)
    tl.store(scales + row * tl.num_programs(1) + group, scale)


@triton.jit
def _rounded(numbers):
    """The nearest numbers that e4m3 has, even ones on ties. The interpreter needs it: its own conversion does not carry."""
    bits = numbers.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)  # 3 bits of the fraction stay
    subnormal = (numbers + 24576.0) - 24576.0  # 1.5 · 2²³ steps of 2⁻⁹
    return tl.where(tl.abs(numbers) < 0.015625, subnormal, normal)


@triton.jit(do_not_specialize=["num_rows"])
def _multiply_tile(
    values,
    row_scales,
    weight,
    scales,
    bias,
    out,
    num_rows,
    num_outputs,
    num_inputs,
    num_blocks,
    slice_blocks,
    NUM_SLICES: tl.constexpr,
    IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of the outputs, for NUM_SLICES slices from the one that the program's second index names."""
    row_tile, output_tile = tile_in_groups(tl.program_id(0), num_rows, num_outputs, ROWS, BLOCK, GROUP)
    rows = row_tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    outputs = output_tile * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    # Rows and outputs past the end repeat others, and are not stored.
    sources = (rows % num_rows).to(tl.int64)
    value_rows = values + sources[:, None] * num_inputs
    weight_rows = weight + (outputs % num_outputs).to(tl.int64)[None, :] * num_inputs
    row_scales += sources * num_blocks
    scales += output_tile * num_blocks
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for index in range(NUM_SLICES):
        first = (tl.program_id(1) + index) * slice_blocks
        last = tl.minimum(first + slice_blocks, num_blocks)
        total += _add_blocks(value_rows, row_scales, weight_rows, scales, first, last, num_inputs, IS_EVEN, ROWS, BLOCK)
    if bias is not None:
        total += tl.load(bias + outputs % num_outputs)[None, :].to(tl.float32)
    start = (tl.program_id(1).to(tl.int64) * num_rows + rows) * num_outputs
    mask = (rows < num_rows)[:, None] & (outputs < num_outputs)[None, :]
    tl.store(out + start[:, None] + outputs[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _add_blocks(
    value_rows,
    row_scales,
    weight_rows,
    scales,
    first,
    last,
    num_inputs,
    IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum over the blocks of inputs from `first` to `last`, scaled one by one. [ROWS, BLOCK] float32"""
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for block in range(first, last):
        inputs = block * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
        if IS_EVEN:
            left = tl.load(value_rows + inputs[None, :])
            right = tl.load(weight_rows + inputs[:, None])
        else:
            left = tl.load(value_rows + inputs[None, :], mask=(inputs < num_inputs)[None, :], other=0.0)
            right = tl.load(weight_rows + inputs[:, None], mask=(inputs < num_inputs)[:, None], other=0.0)
        scale = tl.load(row_scales + block) * tl.load(scales + block)  # [ROWS]
        total += tl.dot(left, right) * scale[:, None]
    return total
