"""The grouped product in Triton. The grid has as many tiles as there can be; a program past the last one ends at once.

After the fused mixture-of-experts kernel of vLLM (Kwon and others, 2023), with the sort and the weighted sum left to others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.expert_routing import ExpertOrder
from kernels.invariant_linear.triton import GROUP_ROW_TILES, Tiling, add_span, tile_in_groups

HALF = {
    16: Tiling(rows=16, outputs=128, inputs=128, num_warps=4, num_stages=4),
    32: Tiling(rows=32, outputs=128, inputs=128, num_warps=4, num_stages=4),
    64: Tiling(rows=64, outputs=128, inputs=64, num_warps=4, num_stages=4),
    128: Tiling(rows=128, outputs=128, inputs=64, num_warps=8, num_stages=4),
}
"""By the rows of a tile. Few rows are bound by the weights' way from memory: long loads, several under way."""
FULL = {rows: Tiling(rows, outputs=64, inputs=32, num_warps=4, num_stages=3) for rows in HALF}


def grouped_linear(x: Tensor, weight: Tensor, order: ExpertOrder, *, from_tokens: bool) -> Tensor:
    """See the package."""
    num_rows, num_row_tiles = order.pairs.shape[0], order.tile_experts.shape[0]
    _, num_outputs, num_inputs = weight.shape
    tiling = (FULL if x.dtype is torch.float32 else HALF)[order.rows_per_tile]
    out = x.new_empty(num_rows, num_outputs)
    if num_rows:
        _multiply_tile[(num_row_tiles * triton.cdiv(num_outputs, tiling.outputs),)](
            x,
            weight,
            out,
            order.tile_experts,
            order.tile_starts,
            order.starts,
            order.pairs,
            num_row_tiles,
            num_outputs,
            num_inputs,
            x.stride(0),
            TOP_K=order.top_k if from_tokens else 0,
            IS_EVEN=num_inputs % tiling.inputs == 0,
            ROWS=tiling.rows,
            OUTPUTS=tiling.outputs,
            INPUTS=tiling.inputs,
            GROUP=GROUP_ROW_TILES,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )
    return out


@triton.jit(do_not_specialize=["num_row_tiles"])
def _multiply_tile(
    x,
    weight,
    out,
    tile_experts,
    tile_starts,
    starts,
    pairs,
    num_row_tiles,
    num_outputs,
    num_inputs,
    x_stride,
    TOP_K: tl.constexpr,
    IS_EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of one expert's outputs. TOP_K: how many rows a token has, or 0 where x has the rows themselves."""
    row_tile, output_tile = tile_in_groups(tl.program_id(0), num_row_tiles * ROWS, num_outputs, ROWS, OUTPUTS, GROUP)
    expert = tl.load(tile_experts + row_tile).to(tl.int64)
    if expert < 0:
        return
    rows = tl.load(tile_starts + row_tile) + tl.arange(0, ROWS)  # [ROWS]
    is_mine = rows < tl.load(starts + expert + 1)
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)  # [OUTPUTS]
    sources = tl.where(is_mine, rows, 0)
    if TOP_K > 0:
        sources = tl.load(pairs + sources) // TOP_K
    x_rows = x + sources.to(tl.int64)[:, None] * x_stride
    # Outputs past the end repeat others, and are not stored.
    weight_rows = weight + (expert * num_outputs + outputs % num_outputs)[None, :] * num_inputs
    total = add_span(x_rows, weight_rows, 0, num_inputs, num_inputs, IS_EVEN, ROWS, OUTPUTS, INPUTS)
    mask = is_mine[:, None] & (outputs < num_outputs)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * num_outputs + outputs[None, :], total.to(out.dtype.element_ty), mask=mask)
