"""The sampling steps: pure functions from one row of logits to the token that comes next.

A row passes through the edits (`EDITS`, in this order; each changes the row in place), is divided by its temperature, and
then through the filters top-k, top-p and min-p, each of which sees the probabilities that the one before left. Every step
works on one row alone, so a row's result is bitwise the same whatever else is in the batch.

They are written in NumPy on the memory of the logits tensor: one row costs some tens of microseconds on one core, without
waking the threads of the model, whose barriers cost more than these steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.params import SamplingParams

Row = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_UINT64 = 2**64 - 1
_LARGEST_FLOAT = np.finfo(np.float32).max
_BLOCK = 256
"""Weights per partial sum of a draw."""
_NUCLEUS_GUESS = 256
"""Most nuclei have no more tokens than this, and then only so many weights are sorted."""


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """What one sequence asks of the sampler, prepared once when it takes its slot."""

    params: SamplingParams
    num_prompt_tokens: int
    bias_ids: Ids
    bias_values: Row
    masked_ids: Ids
    """Ids that may not be chosen while fewer than `params.min_new_tokens` tokens are generated."""

    @property
    def has_edits(self) -> bool:
        return bool(self.bias_ids.size or self.masked_ids.size or self.params.has_penalties)


Edit = Callable[[Row, SamplingRules, npt.NDArray[np.int32]], None]
"""(row [vocab], rules, history [tokens]): changes the row in place. `history` is the prompt and the output so far."""


def make_rules(
    params: SamplingParams, num_prompt_tokens: int, masked_token_ids: tuple[int, ...], vocab_size: int
) -> SamplingRules:
    """Prepare `params`. Ids outside the logits can not be sampled, so that a bias on them or a mask of them means nothing."""
    bias = {token_id: value for token_id, value in params.logit_bias.items() if 0 <= token_id < vocab_size}
    masked = masked_token_ids if params.min_new_tokens > 0 else ()
    return SamplingRules(
        params=params,
        num_prompt_tokens=num_prompt_tokens,
        bias_ids=np.array(list(bias), dtype=np.int64),
        bias_values=np.array(list(bias.values()), dtype=np.float32),
        masked_ids=np.array([token_id for token_id in masked if 0 <= token_id < vocab_size], dtype=np.int64),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Edits


def add_logit_bias(row: Row, rules: SamplingRules, history: npt.NDArray[np.int32]) -> None:
    if rules.bias_ids.size:
        row[rules.bias_ids] += rules.bias_values


def mask_early_end(row: Row, rules: SamplingRules, history: npt.NDArray[np.int32]) -> None:
    if rules.masked_ids.size and len(history) - rules.num_prompt_tokens < rules.params.min_new_tokens:
        row[rules.masked_ids] = -np.inf


def penalize_repetition(row: Row, rules: SamplingRules, history: npt.NDArray[np.int32]) -> None:
    """Of every token in prompt or output, divide a positive logit and multiply a negative one (Keskar et al. 2019)."""
    penalty = rules.params.repetition_penalty
    if penalty == 1.0:
        return
    ids = np.unique(history)
    logits = row[ids]
    # A tiny penalty makes huge logits, not infinite ones. Where a logit or the penalty is 0, `where` takes the other side.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        row[ids] = np.where(logits > 0, np.minimum(logits / penalty, _LARGEST_FLOAT), logits * penalty)


def penalize_frequency(row: Row, rules: SamplingRules, history: npt.NDArray[np.int32]) -> None:
    """Subtract, for every token of the output, its count times the frequency penalty plus the presence penalty."""
    params = rules.params
    if params.frequency_penalty == 0.0 and params.presence_penalty == 0.0:
        return
    ids, counts = np.unique(history[rules.num_prompt_tokens :], return_counts=True)
    row[ids] -= counts.astype(np.float32) * params.frequency_penalty + params.presence_penalty


EDITS: tuple[Edit, ...] = (add_logit_bias, mask_early_end, penalize_repetition, penalize_frequency)


# ---------------------------------------------------------------------------------------------------------------------
# Temperature and filters


def temper(logits: Row, temperature: float) -> Row:
    """Unnormalised probabilities [n] at `temperature`; the largest is exactly 1. At least one logit must be finite."""
    with np.errstate(over="ignore", under="ignore"):
        weights: Row = np.exp((logits - logits.max()) / np.float32(temperature))
        return weights


def top_k(logits: Row, k: int) -> Ids:
    """Indices, ascending, of the k largest logits and of all that equal the smallest of them."""
    return np.flatnonzero(logits >= _largest(logits, k)[-1])


def top_p(weights: Row, p: float) -> Ids:
    """Indices, ascending, of the smallest set of largest weights that has at least the share `p` of the sum.

    Weights that equal the smallest of the set belong to it. Nucleus sampling (Holtzman et al. 2020).
    """
    target = p * weights.sum(dtype=np.float64)
    largest = _largest(weights, _NUCLEUS_GUESS)
    mass = np.cumsum(largest, dtype=np.float64)
    is_guess_right = mass[-1] >= target
    boundary = largest[np.searchsorted(mass, target)] if is_guess_right else _nucleus_boundary(weights, target)
    return np.flatnonzero(weights >= boundary)


def _nucleus_boundary(weights: Row, target: float) -> np.float32:
    """The smallest of the largest weights that together reach `target`, without sorting more than one bucket of them."""
    buckets = weights.view(np.int32) >> 19  # exponent and 4 bits of the mantissa: ascend with the weight, as it has no sign
    mass = np.bincount(buckets, weights=weights)[::-1].cumsum()  # of the largest buckets
    rank = int(np.searchsorted(mass, target))
    if rank == len(mass):  # the share is 1 but for rounding
        return np.float32(0.0)
    inside = np.sort(weights[buckets == len(mass) - 1 - rank])[::-1]
    inside_mass = np.cumsum(inside, dtype=np.float64) + (mass[rank - 1] if rank else 0.0)
    return np.float32(inside[min(int(np.searchsorted(inside_mass, target)), len(inside) - 1)])


def min_p(weights: Row, p: float) -> Ids:
    """Indices, ascending, of the weights that are at least `p` times the largest (Nguyen et al. 2024)."""
    return np.flatnonzero(weights >= np.float32(p) * weights.max())


def _largest(values: Row, num: int) -> Row:
    """The `num` largest of `values` (all, if they are fewer), descending.

    The num-th largest of the maxima of disjoint groups bounds the num-th largest value from below, so only the few values
    at or above that bound are sorted.
    """
    num_groups = 2 * num
    group_size = len(values) // num_groups
    if group_size >= 4:
        maxima = values[: num_groups * group_size].reshape(group_size, num_groups).max(axis=0)
        values = values[values >= np.partition(maxima, num_groups - num)[num_groups - num]]
    return np.sort(values)[::-1][:num]


# ---------------------------------------------------------------------------------------------------------------------
# The draw


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its two arguments: SplitMix64 (Steele et al. 2014), 53 bits of it."""
    return (_splitmix64(_splitmix64(seed & _UINT64) ^ (position & _UINT64)) >> 11) * 2.0**-53


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _UINT64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _UINT64
    return state ^ (state >> 31)


def pick(weights: Row, fraction: float) -> int:
    """The index at which the running sum of `weights` passes `fraction` (in [0, 1)) of their sum; its weight is not 0."""
    blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64))
    target = fraction * blocks[-1]
    block = int(np.searchsorted(blocks, target, side="right"))
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK]
    mass = np.cumsum(inside, dtype=np.float64) + (blocks[block - 1] if block else 0.0)
    offset = int(np.searchsorted(mass, target, side="right"))
    if offset == len(inside):  # the two sums of this block differ in their last bits
        offset = int(np.flatnonzero(inside)[-1])
    return start + offset


def draw(row: Row, params: SamplingParams, position: int) -> int:
    """The token id at `position` of its sequence, drawn from the edited logits `row` [vocab]. One must be finite."""
    ids: Ids | None = None
    if 0 < params.top_k < len(row):
        ids = top_k(row, params.top_k)
    weights = temper(row if ids is None else row[ids], params.temperature)
    if params.top_p < 1.0:
        ids, weights = _keep(ids, weights, top_p(weights, params.top_p))
    if params.min_p > 0.0:
        ids, weights = _keep(ids, weights, min_p(weights, params.min_p))
    index = pick(weights, uniform(params.seed, position))
    return index if ids is None else int(ids[index])


def _keep(ids: Ids | None, weights: Row, kept: Ids) -> tuple[Ids, Row]:
    return kept if ids is None else ids[kept], weights[kept]
