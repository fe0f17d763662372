"""Bias, early-end mask, penalties and the mask of a grammar, on a copy of the logits.

A token is penalised once, however often it is in the history. The history is counted into a table of one word per token of the
vocabulary; then every place in the history tries to take its token's word away, and the one that gets it edits the logit. So
nothing is sorted, and only as much is touched as there is history. Counts are integers: the order of the atomic additions
does not show. What is -inf stays -inf in every edit, so that the mask of the grammar, the last of the steps, can go first.
A NaN or +inf makes its entry NaN, and no mask hides it, so that the draw finds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.sampling.rules import SlotRules

BLOCK = 4096
"""Logits per program of the copy."""
CHUNK = 512
"""Places of a history at a time."""
NUM_CHUNKS = 8
"""Programs that share a history."""

IN_PROMPT = tl.constexpr(1 << 30)
"""The bit of a token's word that the prompt sets; the bits below count it in the output."""
LARGEST_FLOAT = tl.constexpr(3.4028234663852886e38)


def edited(
    logits: Tensor,
    slots: Tensor,
    positions: Tensor,
    rules: SlotRules,
    history: Tensor,
    has_edits: bool,
    allowed: Tensor | None,
    allowed_rows: Tensor | None,
) -> Tensor:
    """A new [rows, vocab] float32; arguments as in `kernels.sampling.sample`. Rows of padding are not filled."""
    num_rows, vocab_size = logits.shape
    out = torch.empty((num_rows, vocab_size), dtype=torch.float32, device=logits.device)
    counts = torch.empty(out.shape if has_edits else (1, 1), dtype=torch.int32, device=logits.device)
    penalties = (rules.repetition_penalties, rules.frequency_penalties, rules.presence_penalties)
    _copy[num_rows, triton.cdiv(vocab_size, BLOCK)](
        logits,
        logits.stride(0),
        out,
        counts,
        slots,
        *penalties,
        allowed,
        0 if allowed is None else allowed.stride(0),
        allowed_rows,
        vocab_size,
        HAS_EDITS=has_edits,
        HAS_MASKS=allowed is not None,
        BLOCK=BLOCK,
        num_warps=8,
    )
    if has_edits:
        _add_bias_and_mask[num_rows,](
            out,
            slots,
            positions,
            rules.min_lengths,
            rules.num_masked,
            rules.masked_ids,
            rules.masked_ids.stride(0),
            rules.num_biases,
            rules.bias_ids,
            rules.bias_values,
            rules.bias_ids.stride(0),
            vocab_size,
            CHUNK=CHUNK,
        )
        places = (slots, positions, rules.num_prompt_tokens, history, history.stride(0), *penalties, vocab_size)
        grid = (num_rows, NUM_CHUNKS)
        _count[grid](counts, *places, CHUNK=CHUNK, NUM_CHUNKS=NUM_CHUNKS)
        _penalize[grid](out, counts, *places, CHUNK=CHUNK, NUM_CHUNKS=NUM_CHUNKS)
    return out


@triton.jit
def _is_penalized(slot, repetition_ptr, frequency_ptr, presence_ptr):
    frequency, presence = tl.load(frequency_ptr + slot), tl.load(presence_ptr + slot)
    return (tl.load(repetition_ptr + slot) != 1.0) | (frequency != 0.0) | (presence != 0.0)


@triton.jit
def _copy(
    logits_ptr,
    logits_stride,
    out_ptr,
    counts_ptr,
    slots_ptr,
    repetition_ptr,
    frequency_ptr,
    presence_ptr,
    allowed_ptr,
    allowed_stride,
    allowed_rows_ptr,
    vocab_size,
    HAS_EDITS: tl.constexpr,
    HAS_MASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copies a block of a row, without what the grammar forbids, and clears the counts of a row with penalties."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot < 0:
        return
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab_size
    scores = tl.load(logits_ptr + row * logits_stride + ids, mask=inside, other=0.0)
    scores = tl.where(scores == float("inf"), float("nan"), scores)
    if HAS_MASKS:
        mask_row = tl.load(allowed_rows_ptr + row).to(tl.int64)
        if mask_row >= 0:
            words = tl.load(allowed_ptr + mask_row * allowed_stride + ids // 32, mask=inside, other=0)
            is_forbidden = ((words >> (ids % 32)) & 1) == 0
            scores = tl.where(is_forbidden & (scores == scores), -float("inf"), scores)
    tl.store(out_ptr + row * vocab_size + ids, scores, mask=inside)
    if HAS_EDITS:
        num_cleared = tl.where(_is_penalized(slot, repetition_ptr, frequency_ptr, presence_ptr), vocab_size, 0)
        tl.store(counts_ptr + row * vocab_size + ids, tl.zeros((BLOCK,), tl.int32), mask=ids < num_cleared)


@triton.jit
def _add_bias_and_mask(
    out_ptr,
    slots_ptr,
    positions_ptr,
    min_lengths_ptr,
    num_masked_ptr,
    masked_ids_ptr,
    masked_stride,
    num_biases_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    bias_stride,
    vocab_size,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot < 0:
        return
    out_ptr += row * vocab_size
    for start in range(0, tl.load(num_biases_ptr + slot), CHUNK):
        places = start + tl.arange(0, CHUNK)
        inside = places < tl.load(num_biases_ptr + slot)
        ids = tl.load(bias_ids_ptr + slot * bias_stride + places, mask=inside, other=0)
        values = tl.load(bias_values_ptr + slot * bias_stride + places, mask=inside, other=0.0)
        scores = tl.load(out_ptr + ids, mask=inside, other=0.0)
        tl.store(out_ptr + ids, scores + values, mask=inside)
    if tl.load(positions_ptr + row) < tl.load(min_lengths_ptr + slot):
        tl.debug_barrier()  # an id can have a bias too, stored by another thread
        for start in range(0, tl.load(num_masked_ptr + slot), CHUNK):
            places = start + tl.arange(0, CHUNK)
            inside = places < tl.load(num_masked_ptr + slot)
            ids = tl.load(masked_ids_ptr + slot * masked_stride + places, mask=inside, other=0)
            scores = tl.load(out_ptr + ids, mask=inside, other=0.0)
            tl.store(out_ptr + ids, tl.where(scores == scores, -float("inf"), scores), mask=inside)


@triton.jit
def _count(
    counts_ptr,
    slots_ptr,
    positions_ptr,
    num_prompt_tokens_ptr,
    history_ptr,
    history_stride,
    repetition_ptr,
    frequency_ptr,
    presence_ptr,
    vocab_size,
    CHUNK: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
):
    """Counts the tokens of every NUM_CHUNKS-th chunk of a row's history."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot < 0:
        return
    if not _is_penalized(slot, repetition_ptr, frequency_ptr, presence_ptr):
        return
    num_tokens, num_prompt_tokens = tl.load(positions_ptr + row), tl.load(num_prompt_tokens_ptr + slot)
    for start in range(tl.program_id(1) * CHUNK, num_tokens, NUM_CHUNKS * CHUNK):
        places = start + tl.arange(0, CHUNK)
        ids = tl.load(history_ptr + slot * history_stride + places, mask=places < num_tokens, other=-1)
        is_token = (ids >= 0) & (ids < vocab_size)
        words_ptr = counts_ptr + row * vocab_size + ids
        is_output = places >= num_prompt_tokens
        tl.atomic_or(words_ptr, tl.full((CHUNK,), IN_PROMPT, tl.int32), mask=is_token & (is_output == 0), sem="relaxed")
        tl.atomic_add(words_ptr, tl.full((CHUNK,), 1, tl.int32), mask=is_token & is_output, sem="relaxed")


@triton.jit
def _penalize(
    out_ptr,
    counts_ptr,
    slots_ptr,
    positions_ptr,
    num_prompt_tokens_ptr,
    history_ptr,
    history_stride,
    repetition_ptr,
    frequency_ptr,
    presence_ptr,
    vocab_size,
    CHUNK: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
):
    """Edits the logits of the tokens whose word a place of these chunks takes."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if slot < 0:
        return
    if not _is_penalized(slot, repetition_ptr, frequency_ptr, presence_ptr):
        return
    num_tokens = tl.load(positions_ptr + row)
    repetition, presence = tl.load(repetition_ptr + slot), tl.load(presence_ptr + slot)
    frequency = tl.load(frequency_ptr + slot)
    for start in range(tl.program_id(1) * CHUNK, num_tokens, NUM_CHUNKS * CHUNK):
        places = start + tl.arange(0, CHUNK)
        ids = tl.load(history_ptr + slot * history_stride + places, mask=places < num_tokens, other=-1)
        is_token = (ids >= 0) & (ids < vocab_size)
        taken = tl.atomic_xchg(counts_ptr + row * vocab_size + ids, tl.zeros((CHUNK,), tl.int32), mask=is_token, sem="relaxed")
        is_owner = is_token & (taken != 0)
        score_ptr = out_ptr + row * vocab_size + ids
        scores = tl.load(score_ptr, mask=is_owner, other=0.0)
        scores = _edit(scores, taken & (IN_PROMPT - 1), repetition, frequency, presence)
        tl.store(score_ptr, scores, mask=is_owner)


@triton.jit
def _edit(scores, num_output, repetition, frequency, presence):
    """The logits of tokens that were seen, `num_output` times in the output."""
    divided = scores / repetition
    divided = tl.where(divided > LARGEST_FLOAT, LARGEST_FLOAT, divided)  # a tiny penalty makes huge logits, not infinite ones
    multiplied = tl.where(scores == -float("inf"), scores, scores * repetition)
    repeated = tl.where(scores > 0.0, divided, multiplied)
    scores = tl.where(repetition != 1.0, repeated, scores)
    return tl.where(num_output > 0, scores - (num_output.to(tl.float32) * frequency + presence), scores)
