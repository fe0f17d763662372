"""Top-k, top-p and min-p, as one number per row: the smallest logit that stays.

Nothing is sorted. The k-th largest logit is the largest number that at least k logits reach, the boundary of the nucleus is the
largest weight such that the weights from it on have the wanted share of the sum, and both are found by bisection on the bits
of a float, in whose order as integers the floats are ordered too (as in radix selection: Alabi et al., "Fast k-selection
algorithms for graphics processing units", 2012). That takes some thirty passes, so they go over few candidates: a histogram of
how far the logits are below the largest, in nats at the row's temperature, tells from which bucket on nothing can stay, and
what is above is written down first. Where that is too much, for instance because all logits are alike, the passes go over
the whole row; the candidates hold all that the bisection has to find, so the result is the same.

One program per row. Weights are summed in float64, in an order that follows from the row alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.sampling.rules import SlotRules

BLOCK = 2048
"""Logits at a time."""
MAX_CANDIDATES = 8192

NUM_BUCKETS = tl.constexpr(128)
BUCKETS_PER_NAT = tl.constexpr(4.0)
"""The last bucket holds all that is further below the largest logit."""
BUCKET_RATIO = tl.constexpr(0.778)
"""Less than the smallest weight of a bucket over the largest, exp(-1 / BUCKETS_PER_NAT) = 0.7788: there is rounding."""


def floors(logits: Tensor, slots: Tensor, rules: SlotRules) -> Tensor:
    """[rows] float32: the smallest logit of each row that its filters leave; -inf where it has none, or is greedy or padding.

    logits: [rows, vocab] float32, edited. Of a row with a NaN or without a finite logit the result means nothing.
    """
    num_rows, vocab_size = logits.shape
    out = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    candidates = torch.empty((num_rows, MAX_CANDIDATES), dtype=torch.float32, device=logits.device)
    _find_floors[num_rows,](
        logits,
        logits.stride(0),
        slots,
        rules.temperatures,
        rules.top_ks,
        rules.top_ps,
        rules.min_ps,
        candidates,
        out,
        vocab_size,
        MAX_CANDIDATES=MAX_CANDIDATES,
        BLOCK=BLOCK,
        num_warps=16,
    )
    return out


@triton.jit
def _find_floors(
    logits_ptr,
    logits_stride,
    slots_ptr,
    temperatures_ptr,
    top_ks_ptr,
    top_ps_ptr,
    min_ps_ptr,
    candidates_ptr,
    floors_ptr,
    vocab_size,
    MAX_CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    tl.store(floors_ptr + row, -float("inf"))
    if slot < 0:
        return
    temperature = tl.load(temperatures_ptr + slot)
    top_k, top_p, min_p = tl.load(top_ks_ptr + slot), tl.load(top_ps_ptr + slot), tl.load(min_ps_ptr + slot)
    if (top_k <= 0) | (top_k >= vocab_size):
        top_k = 0
    if (temperature == 0.0) | ((top_k == 0) & (top_p >= 1.0) & (min_p <= 0.0)):
        return
    row_ptr = logits_ptr + row * logits_stride
    list_ptr = candidates_ptr + row * MAX_CANDIDATES
    peak = _largest(row_ptr, vocab_size, BLOCK)
    buckets_per_logit = BUCKETS_PER_NAT / temperature
    mass, num_finite, counts = _survey(row_ptr, vocab_size, peak, temperature, buckets_per_logit, BLOCK)
    if top_k >= num_finite:
        top_k = 0
    last_bucket = _last_bucket(counts, top_k, top_p, min_p)
    source_ptr, num = row_ptr, vocab_size
    num_candidates = tl.sum(tl.where(tl.arange(0, NUM_BUCKETS) <= last_bucket, counts, 0), axis=0)
    if (last_bucket < NUM_BUCKETS - 1) & (num_candidates <= MAX_CANDIDATES):
        _list_candidates(row_ptr, list_ptr, vocab_size, peak, buckets_per_logit, last_bucket, BLOCK)
        source_ptr, num = list_ptr, num_candidates
    floor = -float("inf")
    if top_k > 0:
        floor = _kth_largest(source_ptr, num, top_k, peak, BLOCK)
        mass = _mass(source_ptr, num, floor, 0.0, peak, temperature, BLOCK)
    boundary = min_p
    if top_p < 1.0:
        nucleus = _nucleus_boundary(source_ptr, num, floor, top_p * mass, peak, temperature, BLOCK)
        boundary = tl.maximum(min_p, nucleus)
    tl.store(floors_ptr + row, _smallest(source_ptr, num, floor, boundary, peak, temperature, BLOCK))


@triton.jit
def _load(ptr, start, num, BLOCK: tl.constexpr):
    places = start + tl.arange(0, BLOCK)
    return tl.load(ptr + places, mask=places < num, other=-float("inf"))


@triton.jit
def _weights(logits, peak, temperature):
    """Unnormalised probabilities; the largest is exactly 1."""
    return tl.exp((logits - peak) / temperature)


# ---------------------------------------------------------------------------------------------------------------------
# Candidates


@triton.jit
def _largest(ptr, num, BLOCK: tl.constexpr):
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, num, BLOCK):
        largest = tl.maximum(largest, _load(ptr, start, num, BLOCK))
    return tl.max(largest, axis=0)


@triton.jit
def _buckets(logits, peak, buckets_per_logit):
    """Ascend as the logits descend: a difference and a product are rounded in order. A NaN is in the last."""
    places = (peak - logits) * buckets_per_logit
    return tl.where(places < NUM_BUCKETS - 1.0, places, NUM_BUCKETS - 1.0).to(tl.int32)


@triton.jit
def _survey(ptr, num, peak, temperature, buckets_per_logit, BLOCK: tl.constexpr):
    """The sum of the weights, the number of finite logits, and that in each bucket. What fills a block up is in the last."""
    sums = tl.zeros((BLOCK,), tl.float64)
    num_finite = tl.zeros((BLOCK,), tl.int32)
    counts = tl.zeros((NUM_BUCKETS,), tl.int32)
    for start in range(0, num, BLOCK):
        logits = _load(ptr, start, num, BLOCK)
        sums += _weights(logits, peak, temperature).to(tl.float64)
        num_finite += (logits > -float("inf")).to(tl.int32)
        counts += tl.histogram(_buckets(logits, peak, buckets_per_logit), NUM_BUCKETS)
    return tl.sum(sums, axis=0), tl.sum(num_finite, axis=0), counts


@triton.jit
def _last_bucket(counts, top_k, top_p, min_p):
    """Nothing in the buckets after it stays, or is needed to find what does."""
    buckets = tl.arange(0, NUM_BUCKETS)
    if top_k > 0:
        is_enough = tl.cumsum(counts, axis=0) >= top_k
    else:
        largest_weights = tl.exp(-buckets.to(tl.float32) / BUCKETS_PER_NAT)
        masses = counts.to(tl.float64) * largest_weights.to(tl.float64)  # at least the sum of each bucket's weights
        mass = tl.sum(masses, axis=0)
        is_enough = mass - tl.cumsum(masses, axis=0) <= (1.0 - top_p) * BUCKET_RATIO * mass
        is_enough = is_enough | (largest_weights < min_p)
    return tl.min(tl.where(is_enough, buckets, NUM_BUCKETS - 1), axis=0)


@triton.jit
def _list_candidates(ptr, list_ptr, num, peak, buckets_per_logit, last_bucket, BLOCK: tl.constexpr):
    """Writes the logits down to `last_bucket` one after another."""
    num_listed = 0
    for start in range(0, num, BLOCK):
        logits = _load(ptr, start, num, BLOCK)
        is_candidate = _buckets(logits, peak, buckets_per_logit) <= last_bucket
        places = num_listed + tl.cumsum(is_candidate.to(tl.int32), axis=0) - 1
        tl.store(list_ptr + places, logits, mask=is_candidate)
        num_listed += tl.sum(is_candidate.to(tl.int32), axis=0)
    tl.debug_barrier()  # other threads read them


# ---------------------------------------------------------------------------------------------------------------------
# Bisection


@triton.jit
def _kth_largest(ptr, num, k, peak, BLOCK: tl.constexpr):
    """A number that the k largest logits and all equal to the smallest of them reach, and no others."""
    low, high = _to_key(-float("inf")), _to_key(peak)
    while low < high:
        middle = low + (high - low + 1) // 2
        count = _count(ptr, num, _from_key(middle), BLOCK)
        low = tl.where(count >= k, middle, low)
        high = tl.where(count > k, high, tl.where(count == k, middle, middle - 1))
    return _from_key(low)


@triton.jit
def _count(ptr, num, least, BLOCK: tl.constexpr):
    """How many logits reach `least`."""
    counts = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, num, BLOCK):
        counts += (_load(ptr, start, num, BLOCK) >= least).to(tl.int32)
    return tl.sum(counts, axis=0)


@triton.jit
def _nucleus_boundary(ptr, num, floor, target, peak, temperature, BLOCK: tl.constexpr):
    """The largest number such that the weights that reach it, of logits from `floor` on, sum up to `target`; else 0."""
    low, high = _to_key(0.0), _to_key(1.0)
    while low < high:
        middle = low + (high - low + 1) // 2
        is_enough = _mass(ptr, num, floor, _from_key(middle), peak, temperature, BLOCK) >= target
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle - 1)
    return _from_key(low)


@triton.jit
def _mass(ptr, num, floor, boundary, peak, temperature, BLOCK: tl.constexpr):
    """The sum of the weights that reach `boundary`, of logits from `floor` on."""
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, num, BLOCK):
        logits = _load(ptr, start, num, BLOCK)
        weights = _weights(logits, peak, temperature)
        sums += tl.where((logits >= floor) & (weights >= boundary), weights, 0.0).to(tl.float64)
    return tl.sum(sums, axis=0)


@triton.jit
def _smallest(ptr, num, floor, boundary, peak, temperature, BLOCK: tl.constexpr):
    """The smallest logit from `floor` on whose weight reaches `boundary`."""
    smallest = tl.full((BLOCK,), float("inf"), tl.float32)
    for start in range(0, num, BLOCK):
        logits = _load(ptr, start, num, BLOCK)
        stays = (logits >= floor) & (_weights(logits, peak, temperature) >= boundary)
        smallest = tl.minimum(smallest, tl.where(stays, logits, float("inf")))
    return tl.min(smallest, axis=0)


@triton.jit
def _to_key(number):
    """An int64 for a float32, in the same order."""
    bits = tl.full((), number, tl.float32).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def _from_key(key):
    bits = key.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
