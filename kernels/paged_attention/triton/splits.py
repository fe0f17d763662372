"""How the keys of a row are split: by position alone, so that the order of a reduction depends on nothing else.

The first eight splits have 256 tokens, the next eight 512, and so on. A row of a thousand tokens has enough of them to fill a
GPU's processors, and one of a million has no more than a hundred, which bounds the memory for partial results. A split's part
of the softmax is a maximum, a sum of exponentials relative to it and a weighted sum of values; `merge` takes parts in order.
Source: Flash-Decoding (Dao et al., 2023); that fixed sizes make it independent of the batch: "Defeating Nondeterminism in LLM
Inference" (Thinking Machines, 2025). All exponents are to base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

FIRST_SPLIT_TOKENS = tl.constexpr(256)
SPLITS_PER_SIZE = tl.constexpr(8)


def num_splits(num_tokens: int) -> int:
    """Splits of a row with this many keys."""
    splits, size, covered = 0, FIRST_SPLIT_TOKENS.value, 0
    while covered < num_tokens:
        taken = min(SPLITS_PER_SIZE.value, -(-(num_tokens - covered) // size))
        splits, covered, size = splits + taken, covered + taken * size, 2 * size
    return splits


@triton.jit
def split_start(split):
    """Position of a split's first token."""
    octave = split // SPLITS_PER_SIZE
    size = FIRST_SPLIT_TOKENS << octave
    return (size - FIRST_SPLIT_TOKENS) * SPLITS_PER_SIZE + (split - octave * SPLITS_PER_SIZE) * size


@triton.jit
def split_keys(split, lowest, end, BLOCK_N: tl.constexpr):
    """First and end position of the split's keys that are seen, when keys `lowest` to `end` are. Empty if it has none.

    The first is rounded down to a multiple of BLOCK_N, so that blocks of keys lie the same wherever a window starts.
    """
    return tl.maximum(split_start(split), lowest // BLOCK_N * BLOCK_N), tl.minimum(split_start(split + 1), end)


@triton.jit
def finite(maximum):
    """The maximum to subtract from scores: where no key was seen it is -inf, and -inf less -inf is not a number."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def merge(maximum, total, weighted, part_maximum, part_total, part_weighted):
    """Joins what has been merged so far with the next part. Shapes [R], [R], [R, D]. A part without keys changes no bit.

    The multiply-adds are spelled out: which ones a compiler fuses may differ between kernels, and then their bits do.
    """
    new_maximum = tl.maximum(maximum, part_maximum)
    shift = finite(new_maximum)
    kept = tl.exp2(maximum - shift)
    added = tl.exp2(part_maximum - shift)
    total = tl.fma(total, kept, part_total * added)
    weighted = tl.fma(weighted, tl.broadcast_to(kept[:, None], weighted.shape), part_weighted * added[:, None])
    return new_maximum, total, weighted


@triton.jit
def finish(maximum, total, weighted, sink):
    """Softmax-weighted values [R, D]; a sink [R] (-inf if none) takes weight and gives no value. No keys: zeros."""
    shift = finite(tl.maximum(maximum, sink))
    kept = tl.exp2(maximum - shift)
    total = tl.fma(total, kept, tl.exp2(sink - shift))
    scale = kept / tl.where(total == 0.0, 1.0, total)
    return weighted * scale[:, None]
