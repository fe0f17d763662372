"""The batch-invariant product in Triton: tiles of a fixed size, and the inputs in slices that are added in order.

A weight with few outputs makes too few tiles for a GPU when there are few rows. So its inputs are cut in slices, by its shape
alone: each slice has a sum of its own, and the sums are added first to last. Few rows have one program per tile and slice, and
a second kernel that adds; many rows have one program per tile that does both. The additions are the same ones either way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiling(NamedTuple):
    """Sizes of a program's tile and how it is run."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


HALF = Tiling(rows=128, outputs=128, inputs=64, num_warps=8, num_stages=4)
FULL = Tiling(rows=64, outputs=64, inputs=32, num_warps=4, num_stages=3)
TARGET_PROGRAMS = 144
"""About the number of multiprocessors of the GPUs that serve. A constant, so that they all add in one order."""
MIN_SLICE_INPUTS = 512
MAX_SLICES = 8
GROUP_ROW_TILES = 8
"""Tiles of rows that are computed side by side, so that they find a weight in the L2 cache."""
SUM_COLUMNS = 1024


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See the package."""
    (num_rows, num_inputs), num_outputs = x.shape, weight.shape[0]
    out = x.new_empty(num_rows, num_outputs)
    tiling = FULL if x.dtype is torch.float32 else HALF
    num_tiles = triton.cdiv(num_rows, tiling.rows) * triton.cdiv(num_outputs, tiling.outputs)
    num_slices = slices_of(num_outputs, num_inputs, tiling)
    if num_rows == 0:
        return out
    if num_slices == 1 or num_tiles >= TARGET_PROGRAMS:
        _multiply(x, weight, bias, out, tiling, num_tiles, num_slices, is_split=False)
        return out
    partial = torch.empty(num_slices, num_rows, num_outputs, dtype=torch.float32, device=x.device)
    _multiply(x, weight, None, partial, tiling, num_tiles, num_slices, is_split=True)
    add_slices(partial, bias, out)
    return out


def slices_of(num_outputs: int, num_inputs: int, tiling: Tiling) -> int:
    """A power of two, up to which one row of tiles still fits on the GPU at once."""
    num_slices, num_tiles = 1, triton.cdiv(num_outputs, tiling.outputs)
    while (
        num_slices < MAX_SLICES
        and 2 * num_slices * num_tiles <= TARGET_PROGRAMS
        and num_inputs >= 2 * num_slices * MIN_SLICE_INPUTS
    ):
        num_slices *= 2
    return num_slices


def add_slices(partial: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """partial [slices, rows, outputs] float32, contiguous → `out` [rows, outputs]: added first to last, then the bias."""
    num_slices, num_rows, num_outputs = partial.shape
    grid = (num_rows, triton.cdiv(num_outputs, SUM_COLUMNS))
    _add_slices[grid](partial, bias, out, num_rows, num_outputs, NUM_SLICES=num_slices, COLUMNS=SUM_COLUMNS)


def _multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    tiling: Tiling,
    num_tiles: int,
    num_slices: int,
    *,
    is_split: bool,
) -> None:
    """out: [rows, outputs], or with `is_split` [slices, rows, outputs]."""
    num_inputs = x.shape[1]
    slice_inputs = triton.cdiv(triton.cdiv(num_inputs, tiling.inputs), num_slices) * tiling.inputs
    _multiply_tile[(num_tiles, num_slices if is_split else 1)](
        x,
        weight,
        bias,
        out,
        x.shape[0],
        weight.shape[0],
        num_inputs,
        x.stride(0),
        weight.stride(0),
        slice_inputs,
        NUM_SLICES=1 if is_split else num_slices,
        IS_EVEN=num_inputs % tiling.inputs == 0,
        ROWS=tiling.rows,
        OUTPUTS=tiling.outputs,
        INPUTS=tiling.inputs,
        GROUP=GROUP_ROW_TILES,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


@triton.jit(do_not_specialize=["num_rows"])
def _multiply_tile(
    x,
    weight,
    bias,
    out,
    num_rows,
    num_outputs,
    num_inputs,
    x_stride,
    weight_stride,
    slice_inputs,
    NUM_SLICES: tl.constexpr,
    IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of the outputs, for NUM_SLICES slices from the one that the program's second index names."""
    row_tile, output_tile = tile_in_groups(tl.program_id(0), num_rows, num_outputs, ROWS, OUTPUTS, GROUP)
    rows = row_tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)  # [OUTPUTS]
    # Rows and outputs past the end repeat others, and are not stored.
    x_rows = x + (rows % num_rows).to(tl.int64)[:, None] * x_stride
    weight_rows = weight + (outputs % num_outputs).to(tl.int64)[None, :] * weight_stride
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for index in range(NUM_SLICES):
        first = (tl.program_id(1) + index) * slice_inputs
        last = tl.minimum(first + slice_inputs, num_inputs)
        total += add_span(x_rows, weight_rows, first, last, num_inputs, IS_EVEN, ROWS, OUTPUTS, INPUTS)
    if bias is not None:
        total += tl.load(bias + outputs % num_outputs)[None, :].to(tl.float32)
    start = (tl.program_id(1).to(tl.int64) * num_rows + rows) * num_outputs
    mask = (rows < num_rows)[:, None] & (outputs < num_outputs)[None, :]
    tl.store(out + start[:, None] + outputs[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def add_span(
    x_rows,
    weight_rows,
    first,
    last,
    num_inputs,
    IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """The sum over the inputs from `first` to `last`, always as many at a time. [ROWS, OUTPUTS] float32

    x_rows: [ROWS, 1] and weight_rows: [1, OUTPUTS], where each begins.
    """
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(first, last, INPUTS):
        inputs = start + tl.arange(0, INPUTS)  # [INPUTS]
        if IS_EVEN:
            left = tl.load(x_rows + inputs[None, :])
            right = tl.load(weight_rows + inputs[:, None])
        else:
            left = tl.load(x_rows + inputs[None, :], mask=(inputs < num_inputs)[None, :], other=0.0)
            right = tl.load(weight_rows + inputs[:, None], mask=(inputs < num_inputs)[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
def tile_in_groups(index, num_rows, num_outputs, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, GROUP: tl.constexpr):
    """Tile of rows and tile of outputs number `index`: GROUP tiles of rows go through all outputs together."""
    num_row_tiles, num_output_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(num_outputs, OUTPUTS)
    first_row_tile = index // (GROUP * num_output_tiles) * GROUP
    group = tl.minimum(num_row_tiles - first_row_tile, GROUP)
    within = index % (GROUP * num_output_tiles)
    return first_row_tile + within % group, within // group


@triton.jit(do_not_specialize=["num_rows"])
def _add_slices(partial, bias, out, num_rows, num_outputs, NUM_SLICES: tl.constexpr, COLUMNS: tl.constexpr):
    """COLUMNS outputs of one row."""
    outputs = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = outputs < num_outputs
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((COLUMNS,), tl.float32)
    for index in range(NUM_SLICES):
        total += tl.load(partial + (index * num_rows + row) * num_outputs + outputs, mask=mask, other=0.0)
    if bias is not None:
        total += tl.load(bias + outputs, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * num_outputs + outputs, total.to(out.dtype.element_ty), mask=mask)
