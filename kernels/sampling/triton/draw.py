"""The draw: the largest of the tempered logits with Gumbel noise, or the first of the largest logits where a row is greedy.

In two stages, so that one row too fills the device: programs find the best token of a block of the vocabulary each, then one
per row the best of those. A block tempers its logits below its own largest, the second stage adds what that one is below the
row's, so that no pass is needed to find the row's first, and nothing overflows at a small temperature.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.sampling.rules import SlotRules

BLOCK = 4096
"""Tokens per program of the first stage. A part of what is computed: the sums of the second stage depend on it."""
NO_ID = tl.constexpr(0x7FFFFFFF)


def draw_greedily(logits: Tensor, slots: Tensor | None = None) -> Tensor:
    """See `kernels.sampling.greedy`. With `slots`, padding is INVALID_TOKEN."""
    return _launch(logits, slots, None, None, None)


def draw(logits: Tensor, slots: Tensor, positions: Tensor, rules: SlotRules, floors: Tensor | None) -> Tensor:
    """The token of each row [rows] int32. floors: [rows] float32, the smallest logit of each row that may be drawn."""
    return _launch(logits, slots, positions, rules, floors)


def _launch(
    logits: Tensor, slots: Tensor | None, positions: Tensor | None, rules: SlotRules | None, floors: Tensor | None
) -> Tensor:
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, BLOCK)
    token_ids = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    if num_rows == 0:
        return token_ids
    peaks, scores = torch.empty((2, num_rows, num_blocks), dtype=torch.float32, device=logits.device)
    best_ids = torch.empty((num_rows, num_blocks), dtype=torch.int32, device=logits.device)
    temperatures = None if rules is None else rules.temperatures
    _best_of_blocks[num_rows, num_blocks](
        logits,
        logits.stride(0),
        slots,
        positions,
        temperatures,
        None if rules is None else rules.seeds,
        floors,
        peaks,
        scores,
        best_ids,
        vocab_size,
        num_blocks,
        HAS_SLOTS=slots is not None,
        DRAWS=rules is not None,
        HAS_FLOORS=floors is not None,
        BLOCK=BLOCK,
        num_warps=8,
    )
    _best_of_rows[num_rows,](
        peaks,
        scores,
        best_ids,
        slots,
        temperatures,
        token_ids,
        num_blocks,
        HAS_SLOTS=slots is not None,
        DRAWS=rules is not None,
        NUM_BLOCKS=triton.next_power_of_2(num_blocks),
        num_warps=1,
    )
    return token_ids


@triton.jit
def _best_of_blocks(
    logits_ptr,
    logits_stride,
    slots_ptr,
    positions_ptr,
    temperatures_ptr,
    seeds_ptr,
    floors_ptr,
    peaks_ptr,
    scores_ptr,
    best_ids_ptr,
    vocab_size,
    num_blocks,
    HAS_SLOTS: tl.constexpr,
    DRAWS: tl.constexpr,
    HAS_FLOORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of a block: its largest logit, NaN if one is NaN or +inf, and its best token with its score below that logit."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    temperature = 0.0
    slot = row
    if HAS_SLOTS:
        slot = tl.load(slots_ptr + row).to(tl.int64)
        if slot < 0:
            return
    ids = block * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + row * logits_stride + ids, mask=ids < vocab_size, other=-float("inf"))
    is_invalid = (logits != logits) | (logits == float("inf"))
    peak = tl.max(logits, axis=0)
    scores = logits
    if DRAWS:
        temperature = tl.load(temperatures_ptr + slot)
        if temperature > 0.0:
            noise = _gumbel(tl.load(seeds_ptr + slot), tl.load(positions_ptr + row), block, BLOCK)
            is_drawn = logits > -float("inf")
            if HAS_FLOORS:
                is_drawn = is_drawn & (logits >= tl.load(floors_ptr + row))
            scores = tl.where(is_drawn, (logits - peak) / temperature + noise, -float("inf"))
    best = tl.max(scores, axis=0)
    at = row * num_blocks + block
    tl.store(peaks_ptr + at, tl.where(tl.max(is_invalid.to(tl.int32), axis=0) > 0, float("nan"), peak))
    tl.store(scores_ptr + at, best)
    tl.store(best_ids_ptr + at, tl.min(tl.where(scores == best, ids, NO_ID), axis=0))


@triton.jit
def _best_of_rows(
    peaks_ptr,
    scores_ptr,
    best_ids_ptr,
    slots_ptr,
    temperatures_ptr,
    token_ids_ptr,
    num_blocks,
    HAS_SLOTS: tl.constexpr,
    DRAWS: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = row
    if HAS_SLOTS:
        slot = tl.load(slots_ptr + row).to(tl.int64)
        if slot < 0:
            tl.store(token_ids_ptr + row, -1)
            return
    blocks = tl.arange(0, NUM_BLOCKS)
    inside = blocks < num_blocks
    at = row * num_blocks + blocks
    peaks = tl.load(peaks_ptr + at, mask=inside, other=-float("inf"))
    peak = tl.max(peaks, axis=0)
    totals = peaks
    if DRAWS:
        temperature = tl.load(temperatures_ptr + slot)
        if temperature > 0.0:
            scores = tl.load(scores_ptr + at, mask=inside, other=-float("inf"))
            totals = tl.where(scores > -float("inf"), scores + (peaks - peak) / temperature, -float("inf"))
    best_block = tl.min(tl.where(totals == tl.max(totals, axis=0), blocks, NUM_BLOCKS - 1), axis=0)
    token_id = tl.load(best_ids_ptr + row * num_blocks + tl.minimum(best_block, num_blocks - 1))
    is_valid = (tl.max((peaks != peaks).to(tl.int32), axis=0) == 0) & (peak > -float("inf"))
    tl.store(token_ids_ptr + row, tl.where(is_valid, token_id, -1))


@triton.jit
def _gumbel(seed, position, block, BLOCK: tl.constexpr):
    """Noise [BLOCK] for the tokens of a block, as `kernels.sampling.reference.gumbel` defines it."""
    counters = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    zeros = counters * 0
    first, second, third, fourth = tl.philox(seed, counters, zeros + position, zeros, zeros)
    words = tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))
    v = (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    series = v * (1.0 + v * (0.5 + v * (1 / 3 + v * (0.25 + v * 0.2))))
    far = -tl.log(tl.maximum(1.0 - v, 2.9802322387695312e-08))
    return -tl.log(tl.where(v < 0.0625, series, far))
