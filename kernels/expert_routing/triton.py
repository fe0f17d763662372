"""Expert routing in Triton: no atomics, and grids that follow from shapes alone, so that it can be captured in a graph."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.expert_routing.order import ExpertOrder, max_tiles

CHUNK_PAIRS = 2048
CHUNK_TILES = 64
COLUMNS = 1024


def route(logits: Tensor, top_k: int, *, renormalise: bool, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """See the package. One program per token."""
    num_tokens, num_experts = logits.shape
    weights = torch.empty(num_tokens, top_k, dtype=torch.float32, device=logits.device)
    experts = torch.empty(num_tokens, top_k, dtype=torch.int32, device=logits.device)
    if num_tokens:
        _route[(num_tokens,)](
            logits,
            weights,
            experts,
            num_experts,
            scale,
            TOP_K=top_k,
            RENORMALISE=renormalise,
            SLOTS=triton.next_power_of_2(top_k),
            EXPERTS=triton.next_power_of_2(num_experts),
            num_warps=1,
        )
    return weights, experts


def sort_by_expert(experts: Tensor, num_experts: int, rows_per_tile: int) -> ExpertOrder:
    """See the package. Every program reads all pairs and keeps those of its own expert, so that none waits for another."""
    num_pairs = experts.numel()
    num_tiles = max_tiles(num_pairs, num_experts, rows_per_tile)
    order = ExpertOrder(
        starts=experts.new_empty(num_experts + 1),
        pairs=experts.new_empty(num_pairs),
        rows=torch.empty_like(experts),
        tile_experts=experts.new_empty(num_tiles),
        tile_starts=experts.new_empty(num_tiles),
        rows_per_tile=rows_per_tile,
    )
    counts = experts.new_empty(num_experts)
    _count[(num_experts,)](experts, counts, num_pairs, CHUNK=CHUNK_PAIRS)
    _place[(num_experts,)](
        experts,
        counts,
        order.starts,
        order.pairs,
        order.rows,
        order.tile_experts,
        order.tile_starts,
        num_pairs,
        num_experts,
        num_tiles,
        ROWS_PER_TILE=rows_per_tile,
        EXPERTS=triton.next_power_of_2(num_experts),
        CHUNK=CHUNK_PAIRS,
        TILES=CHUNK_TILES,
    )
    return order


def combine(answers: Tensor, weights: Tensor, order: ExpertOrder) -> Tensor:
    """See the package."""
    (num_tokens, top_k), hidden = weights.shape, answers.shape[1]
    out = answers.new_empty(num_tokens, hidden)
    if num_tokens:
        grid = (num_tokens, triton.cdiv(hidden, COLUMNS))
        _combine[grid](answers, weights, order.rows, out, hidden, TOP_K=top_k, COLUMNS=COLUMNS)
    return out


@triton.jit
def _route(
    logits,
    weights,
    chosen,
    num_experts,
    scale,
    TOP_K: tl.constexpr,
    RENORMALISE: tl.constexpr,
    SLOTS: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """The experts of one token."""
    token = tl.program_id(0).to(tl.int64)
    experts = tl.arange(0, EXPERTS)  # [EXPERTS]
    is_expert = experts < num_experts
    scores = tl.load(logits + token * num_experts + experts, mask=is_expert, other=-float("inf")).to(tl.float32)
    powers = tl.exp(scores - tl.max(scores, axis=0))
    probabilities = powers / tl.sum(powers, axis=0)
    # Never a NaN, so that an index is always a valid one: those taken rank below NaNs, and what is no expert below those.
    keys = tl.where(is_expert, tl.where(probabilities >= 0.0, probabilities, -1.0), -3.0)
    slots = tl.arange(0, SLOTS)
    best = tl.zeros((SLOTS,), tl.float32)
    best_experts = tl.zeros((SLOTS,), tl.int32)
    for slot in range(TOP_K):
        expert = tl.argmax(keys, axis=0, tie_break_left=True)
        probability = tl.sum(tl.where(experts == expert, probabilities, 0.0), axis=0)
        best = tl.where(slots == slot, probability, best)
        best_experts = tl.where(slots == slot, expert, best_experts)
        keys = tl.where(experts == expert, -2.0, keys)
    if RENORMALISE:
        best = best / tl.sum(best, axis=0)
    tl.store(weights + token * TOP_K + slots, best * scale, mask=slots < TOP_K)
    tl.store(chosen + token * TOP_K + slots, best_experts, mask=slots < TOP_K)


@triton.jit(do_not_specialize=["num_pairs"])
def _count(experts, counts, num_pairs, CHUNK: tl.constexpr):
    """How many pairs one expert has."""
    expert = tl.program_id(0)
    count = tl.zeros((CHUNK,), tl.int32)
    for first in range(0, num_pairs, CHUNK):
        pairs = first + tl.arange(0, CHUNK)
        count += (tl.load(experts + pairs, mask=pairs < num_pairs, other=-1) == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(count, axis=0))


@triton.jit(do_not_specialize=["num_pairs", "num_tiles"])
def _place(
    experts,
    counts,
    starts,
    sorted_pairs,
    rows,
    tile_experts,
    tile_starts,
    num_pairs,
    num_experts,
    num_tiles,
    ROWS_PER_TILE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHUNK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Rows and tiles of one expert; the last one also writes what comes after all."""
    expert = tl.program_id(0)
    others = tl.arange(0, EXPERTS)  # [EXPERTS]
    sizes = tl.load(counts + others, mask=others < num_experts, other=0)
    sizes_in_tiles = (sizes + ROWS_PER_TILE - 1) // ROWS_PER_TILE
    start = tl.sum(tl.where(others < expert, sizes, 0), axis=0)
    first_tile = tl.sum(tl.where(others < expert, sizes_in_tiles, 0), axis=0)
    end_tile = first_tile + tl.sum(tl.where(others == expert, sizes_in_tiles, 0), axis=0)
    tl.store(starts + expert, start)
    for first in range(first_tile, end_tile, TILES):
        tiles = first + tl.arange(0, TILES)
        tl.store(tile_experts + tiles, tl.zeros((TILES,), tl.int32) + expert, mask=tiles < end_tile)
        tl.store(tile_starts + tiles, start + (tiles - first_tile) * ROWS_PER_TILE, mask=tiles < end_tile)
    if expert == num_experts - 1:
        tl.store(starts + num_experts, num_pairs)
        for first in range(end_tile, num_tiles, TILES):
            tiles = first + tl.arange(0, TILES)
            tl.store(tile_experts + tiles, tl.full((TILES,), -1, tl.int32), mask=tiles < num_tiles)
            tl.store(tile_starts + tiles, tl.zeros((TILES,), tl.int32), mask=tiles < num_tiles)
    for first in range(0, num_pairs, CHUNK):
        pairs = first + tl.arange(0, CHUNK)
        is_mine = tl.load(experts + pairs, mask=pairs < num_pairs, other=-1) == expert
        places = start + tl.cumsum(is_mine.to(tl.int32), axis=0) - 1
        tl.store(rows + pairs, places, mask=is_mine)
        tl.store(sorted_pairs + places, pairs, mask=is_mine)
        start += tl.sum(is_mine.to(tl.int32), axis=0)


@triton.jit
def _combine(answers, weights, rows, out, hidden, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """COLUMNS of one token's sum."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns < hidden
    total = tl.zeros((COLUMNS,), tl.float32)
    for slot in range(TOP_K):
        row = tl.load(rows + token * TOP_K + slot).to(tl.int64)
        weight = tl.load(weights + token * TOP_K + slot)
        total += weight * tl.load(answers + row * hidden + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + columns, total.to(out.dtype.element_ty), mask=mask)
