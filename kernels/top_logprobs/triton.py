"""Log probabilities in Triton, in two stages, so that one row too fills the device.

Programs of the first stage reduce a block of the vocabulary to its largest logit, its sum of exponentials and its likeliest
tokens; one program per row joins them. A logit and its id make one int64 key that orders by the logit and, where logits are
equal, by the smaller id first; so the likeliest tokens are the largest keys, taken one after another.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.top_logprobs.reference import LOWEST, TopLogprobs

BLOCK = 4096
"""Tokens per program of the first stage."""
MIN_KEYS = 2048
"""Keys are padded to this, so that few kernels serve every number of wanted tokens."""
NUM_IDS = 64
"""Given tokens at a time."""

LAST_ID = tl.constexpr(0x7FFFFFFF)
NO_KEY = tl.constexpr(-(2**63))


def top_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> TopLogprobs:
    """See `kernels.top_logprobs.top_logprobs`."""
    (num_rows, vocab_size), num_ids = logits.shape, token_ids.shape[1]
    num_blocks = triton.cdiv(vocab_size, BLOCK)
    new = logits.new_empty
    out = TopLogprobs(
        normalizers=new(num_rows, dtype=torch.float32),
        values=new((num_rows, num_ids), dtype=torch.float32),
        top_ids=new((num_rows, num_top), dtype=torch.int32),
        top_values=new((num_rows, num_top), dtype=torch.float32),
    )
    if num_rows == 0:
        return out
    peaks, sums = new((num_rows, num_blocks), dtype=torch.float32), new((num_rows, num_blocks), dtype=torch.float64)
    keys = new((num_rows, num_blocks, num_top), dtype=torch.int64)
    _reduce_blocks[num_rows, num_blocks](
        logits, logits.stride(0), peaks, sums, keys, vocab_size, num_blocks, num_top, BLOCK=BLOCK, num_warps=8
    )
    _join_blocks[num_rows,](
        logits,
        logits.stride(0),
        peaks,
        sums,
        keys,
        token_ids,
        *out,
        num_blocks,
        num_top,
        num_ids,
        LOWEST=LOWEST,
        NUM_BLOCKS=triton.next_power_of_2(num_blocks),
        NUM_KEYS=max(MIN_KEYS, triton.next_power_of_2(num_blocks * num_top)),
        NUM_IDS=NUM_IDS,
        num_warps=8,
    )
    return out


@triton.jit(do_not_specialize=["num_top"])
def _reduce_blocks(
    logits_ptr, logits_stride, peaks_ptr, sums_ptr, keys_ptr, vocab_size, num_blocks, num_top, BLOCK: tl.constexpr
):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = block * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + row * logits_stride + ids, mask=ids < vocab_size, other=-float("inf"))
    is_invalid = tl.max(((logits != logits) | (logits == float("inf"))).to(tl.int32), axis=0) > 0
    peak = tl.max(logits, axis=0)
    weights = tl.where(logits > -float("inf"), tl.exp(logits - peak), 0.0)
    at = row * num_blocks + block
    tl.store(peaks_ptr + at, tl.where(is_invalid, float("nan"), peak))
    tl.store(sums_ptr + at, tl.sum(weights.to(tl.float64), axis=0))
    keys = tl.where(ids < vocab_size, _to_keys(logits, ids), NO_KEY)
    for rank in range(num_top):
        best = tl.max(keys, axis=0)
        tl.store(keys_ptr + at * num_top + rank, best)
        keys = tl.where(keys == best, NO_KEY, keys)


@triton.jit(do_not_specialize=["num_top", "num_ids"])
def _join_blocks(
    logits_ptr,
    logits_stride,
    peaks_ptr,
    sums_ptr,
    keys_ptr,
    token_ids_ptr,
    normalizers_ptr,
    values_ptr,
    top_ids_ptr,
    top_values_ptr,
    num_blocks,
    num_top,
    num_ids,
    LOWEST: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    NUM_IDS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.arange(0, NUM_BLOCKS)
    peaks = tl.load(peaks_ptr + row * num_blocks + blocks, mask=blocks < num_blocks, other=-float("inf"))
    sums = tl.load(sums_ptr + row * num_blocks + blocks, mask=blocks < num_blocks, other=0.0)
    normalizer = _normalizer(peaks, sums)
    tl.store(normalizers_ptr + row, normalizer)
    for start in range(0, num_ids, NUM_IDS):
        places = start + tl.arange(0, NUM_IDS)
        ids = tl.load(token_ids_ptr + row * num_ids + places, mask=places < num_ids, other=-1)
        logits = tl.load(logits_ptr + row * logits_stride + ids, mask=ids >= 0, other=-float("inf"))
        values = tl.where(logits - normalizer < LOWEST, LOWEST, logits - normalizer)
        tl.store(values_ptr + row * num_ids + places, values, mask=places < num_ids)
    places, num_keys = tl.arange(0, NUM_KEYS), num_blocks * num_top
    keys = tl.load(keys_ptr + row * num_keys + places, mask=places < num_keys, other=NO_KEY)
    for rank in range(num_top):
        best = tl.max(keys, axis=0)
        keys = tl.where(keys == best, NO_KEY, keys)
        value = _logit_of(best) - normalizer
        tl.store(top_ids_ptr + row * num_top + rank, (best & LAST_ID).to(tl.int32) ^ LAST_ID)
        tl.store(top_values_ptr + row * num_top + rank, tl.where(value < LOWEST, LOWEST, value))


@triton.jit
def _normalizer(peaks, sums):
    """Of a row, from the largest logit of each block (NaN if invalid) and its sum of exponentials below that."""
    peak = tl.max(peaks, axis=0)
    scales = tl.where(peaks > -float("inf"), tl.exp(peaks - peak), 0.0)
    total = tl.sum(sums * scales.to(tl.float64), axis=0)
    is_valid = (tl.max((peaks != peaks).to(tl.int32), axis=0) == 0) & (peak > -float("inf"))
    return tl.where(is_valid, (peak.to(tl.float64) + tl.log(total)).to(tl.float32), float("nan"))


@triton.jit
def _to_keys(logits, ids):
    """int64 keys in the order of the logits, equal ones (the two zeros are) in that of descending ids."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (ids ^ LAST_ID).to(tl.int64)


@triton.jit
def _logit_of(key):
    ordered = (key >> 32).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)
