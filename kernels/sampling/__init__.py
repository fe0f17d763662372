"""The next token of every row of a batch: edits, mask, temperature, filters and the draw, on the device.

The steps, their order and their meaning are those of the server's sampler on the CPU, but for the draw: it is the largest of
the tempered logits with Gumbel noise, which has the same distribution and needs no running sum. The noise of a token is Philox
of the row's seed, the position and the token's id, so that a row's token depends on its own logits, rules and history, and on
nothing else in the batch.
"""

from __future__ import annotations

from torch import Tensor

from kernels.sampling import reference
from kernels.sampling.rules import ALL_STEPS, Needs, SlotRules

__all__ = ["ALL_STEPS", "INVALID_TOKEN", "Needs", "SlotRules", "greedy", "sample"]

INVALID_TOKEN = reference.INVALID_TOKEN
"""Stands for a row that has a NaN or +inf, or in which nothing is left to choose from."""


def greedy(logits: Tensor) -> Tensor:
    """The first id with the largest logit of each row, or INVALID_TOKEN.

    logits: [rows, vocab] float32, contiguous last dimension. Returns [rows] int32. No host sync; CUDA graphs can hold it.
    """
    if logits.is_cuda:
        from kernels.sampling.triton import greedy as greedy_in_triton

        return greedy_in_triton(logits)
    return reference.greedy(logits)


def sample(
    logits: Tensor,
    slots: Tensor,
    positions: Tensor,
    rules: SlotRules,
    history: Tensor,
    *,
    needs: Needs = ALL_STEPS,
    allowed: Tensor | None = None,
    allowed_rows: Tensor | None = None,
) -> Tensor:
    """The token of each row, or INVALID_TOKEN. Returns [rows] int32 on the device of the logits.

    A row passes through the bias, the early-end mask, the repetition, frequency and presence penalties and the mask of its
    grammar, is divided by its temperature, and is drawn from what top-k, top-p and min-p leave, each of which sees the
    probabilities that the one before left.

    logits: [rows, vocab] float32, contiguous last dimension; they are not changed.
    slots: [rows] int32, each row's entry in `rules` and `history`; a negative one is padding, and its token is INVALID_TOKEN.
    positions: [rows] int32, the index in its sequence of the token to choose; so many tokens of the history count.
    history: [slots, context] int32, contiguous last dimension: prompt and output. Read only for rows with penalties.
    allowed: [masks, words] int32, a bit per token, 32 to a word, the lowest first; bits past the vocabulary mean nothing.
    allowed_rows: [rows] int32, which of the masks is each row's; negative where it has none. Goes with `allowed`.
    needs: which steps run. No host sync, and for the same `needs` the same kernels, so that CUDA graphs can hold it.
    """
    if (allowed is None) != (allowed_rows is None):
        raise ValueError("allowed and allowed_rows go together")
    if logits.is_cuda:
        from kernels.sampling.triton import sample as sample_in_triton

        return sample_in_triton(logits, slots, positions, rules, history, needs, allowed, allowed_rows)
    return reference.sample(logits, slots, positions, rules, history, needs, allowed, allowed_rows)
