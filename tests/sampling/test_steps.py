"""Sampling steps against plain references over whole sorted vocabularies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.params import SamplingParams
from runtime.sampling import steps
from runtime.sampling.steps import make_rules

VOCAB_SIZES = (1, 7, 300, 4099, 49152)
HISTORY = np.array([5, 3, 3, 7, 7, 7, 3], dtype=np.int32)
NUM_PROMPT_TOKENS = 3


def logits_of(seed: int, size: int, scale: float = 3.0) -> steps.Row:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def edited(edit: steps.Edit, row: steps.Row, params: SamplingParams, masked: tuple[int, ...] = ()) -> steps.Row:
    result = row.copy()
    edit(result, make_rules(params, NUM_PROMPT_TOKENS, masked, len(row)), HISTORY)
    return result


# Edits


def test_logit_bias_is_added_to_its_ids_only() -> None:
    row = logits_of(0, 10)
    result = edited(steps.add_logit_bias, row, SamplingParams(logit_bias={2: 5.0, 9: -100.0}))
    expected = row.copy()
    expected[2] += 5.0
    expected[9] -= 100.0
    assert np.array_equal(result, expected)


def test_ids_outside_the_logits_are_ignored() -> None:
    params = SamplingParams(logit_bias={10: 5.0, -1: 5.0}, min_new_tokens=100)
    rules = make_rules(params, NUM_PROMPT_TOKENS, (10, -1, 2**40), 10)
    assert not rules.has_edits


@pytest.mark.parametrize(("min_new_tokens", "is_masked"), [(3, False), (4, False), (5, True)])
def test_the_end_is_masked_until_enough_tokens_are_generated(min_new_tokens: int, is_masked: bool) -> None:
    row = logits_of(0, 10)
    result = edited(steps.mask_early_end, row, SamplingParams(min_new_tokens=min_new_tokens), masked=(1, 4))
    assert np.array_equal(np.isneginf(result), np.isin(np.arange(10), (1, 4)) & is_masked)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.7])
def test_repetition_penalty_counts_prompt_and_output_once(penalty: float) -> None:
    row = logits_of(1, 10)
    assert (row[[3, 5, 7]] > 0).any()
    assert (row[[3, 5, 7]] < 0).any()
    expected = row.copy()
    for token_id in (3, 5, 7):
        expected[token_id] = row[token_id] / penalty if row[token_id] > 0 else row[token_id] * penalty
    result = edited(steps.penalize_repetition, row, SamplingParams(repetition_penalty=penalty))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_tiny_repetition_penalty_stays_finite() -> None:
    result = edited(steps.penalize_repetition, logits_of(1, 10), SamplingParams(repetition_penalty=1e-45))
    assert np.isfinite(result).all()


def test_frequency_and_presence_count_the_output_only() -> None:
    row = logits_of(2, 10)
    expected = row.copy()
    expected[7] -= 3 * 0.5 + 0.25  # three times in the output
    expected[3] -= 1 * 0.5 + 0.25  # twice in the prompt, once in the output
    result = edited(steps.penalize_frequency, row, SamplingParams(frequency_penalty=0.5, presence_penalty=0.25))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


# Filters


def probabilities(row: steps.Row) -> np.ndarray:
    exponents = np.exp(row.astype(np.float64) - row.max())
    return exponents / exponents.sum()


@pytest.mark.parametrize("size", VOCAB_SIZES)
@pytest.mark.parametrize("k", [1, 2, 50, 256, 1000, 40000])
def test_top_k_keeps_the_k_largest(size: int, k: int) -> None:
    row = logits_of(size + k, size)
    expected = np.sort(np.argsort(-row, kind="stable")[:k])
    assert np.array_equal(steps.top_k(row, k), expected)


def test_top_k_keeps_ties_with_the_last() -> None:
    assert steps.top_k(np.array([1, 3, 2, 2, 0], dtype=np.float32), 2).tolist() == [1, 2, 3]


@pytest.mark.parametrize("size", VOCAB_SIZES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 0.99, 0.9999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(size: int, scale: float, p: float) -> None:
    row = logits_of(size, size, scale)
    kept = steps.top_p(steps.temper(row, 1.0), p)
    probability = probabilities(row)
    order = np.argsort(-probability, kind="stable")
    assert set(kept) == set(order[: len(kept)]), "the most likely tokens are kept"
    mass = probability[order].cumsum()
    assert mass[len(kept) - 1] >= p - 1e-6
    assert len(kept) == 1 or mass[len(kept) - 2] < p + 1e-6


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 3),
)
def test_both_ways_to_the_nucleus_agree(values: list[float], p: float, num_zeros: int) -> None:
    weights = np.array([1.0, *values] + [0.0] * num_zeros, dtype=np.float32)
    target = p * weights.sum(dtype=np.float64)
    descending = np.sort(weights)[::-1]
    mass = np.cumsum(descending, dtype=np.float64)
    boundary = steps._nucleus_boundary(weights, target)
    kept = weights >= boundary
    assert weights[kept].sum(dtype=np.float64) >= target * (1 - 1e-12)
    without_ties = weights > boundary
    assert weights[without_ties].sum(dtype=np.float64) <= target * (1 + 1e-12)
    if mass[-1] >= target:
        assert np.array_equal(steps.top_p(weights, p), np.flatnonzero(weights >= descending[np.searchsorted(mass, target)]))


def test_top_p_of_equal_weights_keeps_them_all() -> None:
    assert len(steps.top_p(np.ones(5000, dtype=np.float32), 0.01)) == 5000


def test_min_p_is_relative_to_the_largest() -> None:
    weights = np.array([0.5, 1.0, 0.09, 0.1], dtype=np.float32)
    assert steps.min_p(weights, 0.1).tolist() == [0, 1, 3]


def test_filters_see_what_the_one_before_left() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    # Of the two that top-k keeps, the first has a share of 4/7, more than top_p.
    params = SamplingParams(top_k=2, top_p=0.5)
    assert {steps.draw(row, params, position) for position in range(200)} == {0}
    params = SamplingParams(top_k=2, top_p=0.6)
    assert {steps.draw(row, params, position) for position in range(200)} == {0, 1}


@pytest.mark.parametrize("temperature", [1e-5, 0.5, 1.0, 2.0, 1e6])
def test_temperature_divides_the_logits(temperature: float) -> None:
    row = logits_of(4, 100)
    expected = np.exp((row.astype(np.float64) - row.max()) / temperature)
    np.testing.assert_allclose(steps.temper(row, temperature), expected, rtol=1e-4, atol=1e-30)


# The draw


def test_uniform_is_splitmix64() -> None:
    # First outputs of the published generator seeded with 1234567.
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(steps._splitmix64(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_numbers_are_spread_over_positions_and_over_seeds() -> None:
    for numbers in ([steps.uniform(1, i) for i in range(4096)], [steps.uniform(i, 1) for i in range(4096)]):
        counts, _ = np.histogram(numbers, bins=64, range=(0, 1))
        assert chi_square(counts, np.full(64, 64.0)) < 63 + 8 * math.sqrt(2 * 63)
        assert len(set(numbers)) == 4096


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("position", [0, 1, 131071])
def test_uniform_is_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= steps.uniform(seed, position) < 1.0


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700, 4099])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_pick_finds_where_the_running_sum_passes(size: int, spread: float) -> None:
    rng = np.random.default_rng(size)
    weights = np.exp(rng.standard_normal(size) * spread).astype(np.float32)
    total = weights.sum(dtype=np.float64)
    for fraction in (0.0, *rng.random(200), 1 - 2**-53):
        index = steps.pick(weights, fraction)
        assert weights[:index].sum(dtype=np.float64) <= fraction * total + 1e-9 * total
        assert weights[: index + 1].sum(dtype=np.float64) >= fraction * total - 1e-9 * total


def test_pick_stays_inside_when_sums_are_rounded() -> None:
    for seed in range(300):
        weights = np.exp(np.random.default_rng(seed).standard_normal(300) * 20).astype(np.float32)
        weights[290:] = 0.0
        assert weights[steps.pick(weights, 1 - 2**-53)] > 0


@pytest.mark.parametrize("fraction", [0.0, 1 - 2**-53])
def test_pick_never_takes_a_weight_of_zero(fraction: float) -> None:
    weights = np.zeros(1000, dtype=np.float32)
    weights[[300, 700]] = 0.1
    assert steps.pick(weights, fraction) == (300 if fraction == 0.0 else 700)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.7),
        SamplingParams(seed=3, top_k=10),
        SamplingParams(seed=4, top_p=0.8),
        SamplingParams(seed=5, min_p=0.1),
        SamplingParams(seed=6, temperature=1.5, top_k=20, top_p=0.9, min_p=0.05),
    ],
    ids=lambda params: f"seed {params.seed}",
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    row = logits_of(9, 40, scale=1.5)
    expected = reference_distribution(row, params)
    num_draws = 20_000
    counts = np.bincount([steps.draw(row, params, position) for position in range(num_draws)], minlength=40)
    assert (counts[expected == 0] == 0).all(), "what the filters drop is never drawn"
    kept = expected > 0
    degrees = int(kept.sum()) - 1
    assert degrees > 1
    # The draws are fixed by their seed, so this can not fail by chance: the limit is eight standard deviations away.
    assert chi_square(counts[kept], expected[kept] * num_draws) < degrees + 8 * math.sqrt(2 * degrees)


def reference_distribution(row: steps.Row, params: SamplingParams) -> np.ndarray:
    """The distribution by sorting, masking and renormalising, one filter after the other, in float64."""
    probability = probabilities(row.astype(np.float64) / params.temperature)
    if params.top_k > 0:
        probability = renormalised(probability, np.argsort(-probability)[: params.top_k])
    order = np.argsort(-probability)
    before = probability[order].cumsum() - probability[order]
    probability = renormalised(probability, order[before < params.top_p])
    return renormalised(probability, np.flatnonzero(probability >= params.min_p * probability.max()))


def renormalised(probability: np.ndarray, kept: np.ndarray) -> np.ndarray:
    result = np.zeros_like(probability)
    result[kept] = probability[kept]
    return result / result.sum()
