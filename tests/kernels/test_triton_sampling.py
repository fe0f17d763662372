from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed")

from kernels.sampling import ALL_STEPS, INVALID_TOKEN, Needs, reference
from kernels.sampling.cases import CASES, PENALTIES, WARM, Case
from kernels.sampling.triton import filters, greedy, sample
from kernels.sampling.triton.edits import edited
from kernels.sampling.triton.filters import floors
from runtime.params import SamplingParams
from tests.kernels.conftest import HAS_GPU
from tests.kernels.test_sampling import (
    FILTERS,
    Batch,
    edited_on_cpu,
    logits_to_filter,
    make,
    make_rules,
    staying,
    staying_on_cpu,
)

# The interpreter computes with NumPy, which warns of what a GPU does in silence.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

FAST = settings(max_examples=10, deadline=None, derandomize=True, phases=(Phase.generate,))  # shrinking takes minutes here


def edit_in_triton(batch: Batch) -> torch.Tensor:
    state = (batch.logits, batch.slots, batch.positions, batch.rules, batch.history)
    return edited(*state, batch.case.needs.edits, batch.allowed, batch.allowed_rows)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, triton_device, seeded):
    batch = make(case, seeded, triton_device)
    before = batch.logits.clone()
    assert torch.equal(batch.sample(sample), batch.sample(reference.sample))
    assert torch.equal(batch.logits, before)


@pytest.mark.parametrize("case", CASES)
def test_a_row_has_the_same_token_alone(case, triton_device, seeded):
    batch = make(case, seeded, triton_device)
    alone = [batch.row(index).sample(sample).item() for index in range(len(case.rows))]
    assert batch.sample(sample).tolist() == alone


# ---------------------------------------------------------------------------------------------------------------------
# Greedy rows


def test_the_first_of_the_largest_logits_wins(triton_device):
    logits = torch.full((5, 10000), -3.0, device=triton_device)
    logits[0, [17, 18, 9000]] = 2.0
    logits[1, [4095, 4096]] = 2.0
    logits[2, 9999] = 2.0
    logits[3] = -torch.inf
    logits[3, 5000] = -3e38
    assert greedy(logits).tolist() == [17, 4095, 9999, 5000, 0]
    assert greedy(logits[:, 18:9500]).tolist()[0] == 0
    assert greedy(logits[:0]).tolist() == []


@FAST
@given(st.lists(st.lists(st.sampled_from([-2.0, 0.0, -0.0, 1.5, 3e38, -3e38, -np.inf]), min_size=9, max_size=9), max_size=5))
def test_greedy_is_the_references(rows):
    logits = torch.tensor(rows, dtype=torch.float32).reshape(-1, 9).to("cuda" if HAS_GPU else "cpu")
    assert torch.equal(greedy(logits), reference.greedy(logits))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "needs", [ALL_STEPS, Needs(filters=False, edits=False), Needs(draws=False), Needs(False, False, False)]
)
def test_a_row_with_a_nan_or_infinity_is_invalid_and_its_neighbours_are_not(bad, needs, triton_device, seeded):
    """Also where a mask, a bias or a penalty is on that token."""
    rules = WARM | PENALTIES | {"top_k": 5, "min_length": 100, "masked_ids": (7,), "biases": {7: 1.0}}
    batch = make(Case(300, (rules,) * 3, needs, has_masks=True), seeded, triton_device)
    batch.logits[1, 7] = bad
    batch.history[batch.slots[1]] = 7
    batch.allowed[0] = 0
    batch.allowed[0, 1] = 1
    expected = [batch.row(0).sample(sample).item(), INVALID_TOKEN, batch.row(2).sample(sample).item()]
    assert batch.sample(sample).tolist() == expected
    assert expected[0] != INVALID_TOKEN != expected[2]


@pytest.mark.parametrize("needs", [ALL_STEPS, Needs(filters=False), Needs(False, False, False)])
def test_where_nothing_is_left_a_row_is_invalid(needs, triton_device, seeded):
    batch = make(Case(70, (WARM, WARM | {"top_p": 0.5}, {}), needs, has_masks=True), seeded, triton_device)
    batch.allowed[:] = 0
    batch.allowed[:, 2] = -64  # bits 70 and on, past the vocabulary
    tokens = batch.sample(sample).tolist()
    assert tokens[0] != INVALID_TOKEN  # it has no mask
    assert tokens[1:] == [INVALID_TOKEN, INVALID_TOKEN]


@pytest.mark.parametrize(
    "needs", [ALL_STEPS, Needs(filters=False, edits=False), Needs(draws=False), Needs(False, False, False)]
)
def test_padding_gets_no_token_and_reads_nothing(needs, triton_device, seeded):
    batch = make(Case(40, ({}, WARM, WARM | PENALTIES), needs), seeded, triton_device)
    padded = replace(batch, slots=torch.where(torch.arange(3, device=triton_device) == 1, -1, batch.slots))
    tokens, expected = padded.sample(sample).tolist(), batch.sample(sample).tolist()
    assert tokens == [expected[0], INVALID_TOKEN, expected[2]]


# ---------------------------------------------------------------------------------------------------------------------
# Edits


def assert_edited(batch: Batch) -> None:
    rows = edit_in_triton(batch).cpu().numpy()
    for index in range(len(rows)):
        expected = edited_on_cpu(batch, index)
        if HAS_GPU:  # a product and a sum are rounded once there
            np.testing.assert_allclose(rows[index], expected, rtol=1e-6, atol=1e-5)
        else:
            np.testing.assert_array_equal(rows[index], expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.rows and (case.needs.edits or case.has_masks)])
def test_edits_are_the_servers(case, triton_device, seeded):
    assert_edited(make(case, seeded, triton_device))


@FAST
@given(
    st.integers(1, 60),
    st.integers(0, 70),
    st.sampled_from([0.5, 1.0, 1.2, 1e-40]),
    st.sampled_from([0.0, 0.7, -2.0]),
    st.sampled_from([0.0, -0.3]),
    st.integers(0, 2**32),
)
def test_penalties_are_the_servers(position, num_prompt_tokens, repetition, frequency, presence, seed):
    rules = {"repetition_penalty": repetition, "frequency_penalty": frequency, "presence_penalty": presence}
    case = Case(13, (rules | {"num_prompt_tokens": num_prompt_tokens}, {}))
    batch = make(case, torch.Generator().manual_seed(seed), "cuda" if HAS_GPU else "cpu")
    batch.positions[0] = position
    batch.logits[0, 4] = -torch.inf
    batch.logits[0, 5] = 0.0
    assert_edited(batch)


def test_a_long_history_is_counted_by_several_programs(triton_device, seeded):
    assert_edited(make(Case(50, (PENALTIES,), context=9001), seeded, triton_device))


# ---------------------------------------------------------------------------------------------------------------------
# Filters


def filtered(logits: torch.Tensor, rules: tuple[dict, ...]) -> torch.Tensor:
    slots = torch.arange(len(rules), dtype=torch.int32, device=logits.device)
    return floors(logits, slots, make_rules(len(rules), slots.tolist(), rules, logits.device))


def assert_filtered(logits: torch.Tensor, rules: tuple[dict, ...]) -> None:
    rules = tuple({"temperature": 1.0} | row for row in rules)
    for row, floor, rule in zip(logits.cpu().numpy(), filtered(logits, rules).tolist(), rules, strict=True):
        expected = staying_on_cpu(row, SamplingParams(**rule))
        if HAS_GPU:  # the exponentials differ in their last bits, and with them the boundary may
            assert floor == pytest.approx(max(row[list(expected)].min(), floor), abs=1e-4)
        else:
            assert staying(row, floor) == expected


@pytest.mark.parametrize("rules", FILTERS, ids=str)
def test_filters_leave_what_the_servers_leave(rules, triton_device, seeded):
    logits = logits_to_filter(seeded, 1200).to(triton_device)
    assert_filtered(logits, (rules,) * len(logits))


def test_filters_without_room_for_candidates_leave_the_same(triton_device, seeded, monkeypatch):
    rules = tuple(
        {"temperature": 1.0} | row for row in ({"top_k": 7}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.95, "min_p": 0.01})
    )
    logits = torch.randn(1, 2100, generator=seeded).expand(len(rules), 2100).to(triton_device)
    expected = filtered(logits, rules)
    monkeypatch.setattr(filters, "MAX_CANDIDATES", 1)
    assert torch.equal(filtered(logits, rules), expected)


@FAST
@given(
    st.lists(st.integers(-6, 6), min_size=2, max_size=40),
    st.integers(0, 41),
    st.sampled_from([1.0, 0.9, 0.5, 0.25, 1e-9]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.5, 1.0, 8.0, 1e5]),
)
def test_filters_see_ties_as_the_server_does(logits, top_k, top_p, min_p, temperature):
    row = torch.tensor([logits], dtype=torch.float32, device="cuda" if HAS_GPU else "cpu")
    assert_filtered(row, ({"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": temperature},))


def test_rows_without_filters_have_no_floor(triton_device, seeded):
    logits = torch.randn(3, 100, generator=seeded).to(triton_device)
    rules = ({"top_k": 5}, WARM, WARM | {"top_k": 100, "top_p": 1.0})
    assert filtered(logits, rules).tolist() == [-torch.inf] * 3


# ---------------------------------------------------------------------------------------------------------------------
# The draw


def test_draws_are_the_references_at_every_position_and_seed(triton_device, seeded):
    num_rows = 40
    rows = tuple({"temperature": 1.0, "seed": seed} for seed in torch.randint(2**62, (num_rows,), generator=seeded).tolist())
    batch = make(Case(7, rows, Needs(filters=False, edits=False)), seeded, triton_device)
    batch = replace(batch, logits=batch.logits * 0.1)
    tokens = batch.sample(sample)
    assert torch.equal(tokens, batch.sample(reference.sample))
    assert set(tokens.tolist()) == set(range(7))


def test_only_what_stays_is_drawn_from(triton_device, seeded):
    rows = tuple(WARM | {"temperature": 1e4, "top_k": 3, "seed": seed} for seed in range(20))
    batch = make(Case(200, rows, Needs(edits=False)), seeded, triton_device)
    largest = batch.logits.topk(3).indices
    assert (largest == batch.sample(sample)[:, None]).any(dim=1).all()


@pytest.mark.parametrize("temperature", [1e-6, 1.0])
def test_huge_logits_and_small_temperatures_overflow_nothing(temperature, triton_device):
    rows = ({"temperature": temperature},) * 2
    batch = make(Case(5000, rows, Needs(edits=False)), torch.Generator(), triton_device)
    batch.logits[:] = -3e38
    batch.logits[0, 4700] = 3e38
    batch.logits[1, 300] = -1e38
    assert batch.sample(sample).tolist() == [4700, 300]


def test_what_the_neighbours_need_changes_nothing(triton_device, seeded):
    """The same row with every set of steps that has its own."""
    batch = make(Case(5003, (WARM,), Needs(filters=False, edits=False)), seeded, triton_device)
    others = [replace(batch, case=batch.case._replace(needs=needs)) for needs in (ALL_STEPS, Needs(edits=False))]
    assert {other.sample(sample).item() for other in others} == {batch.sample(sample).item()}


# ---------------------------------------------------------------------------------------------------------------------
# Machine code


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    batch = make(CASES[5], torch.Generator().manual_seed(7))
    yield "greedy", lambda: greedy(batch.logits)
    yield "every step", lambda: batch.sample(sample)
    yield "draw", lambda: replace(batch, case=CASES[2], allowed=None).sample(sample)
    yield "mask", lambda: replace(batch, case=CASES[6]).sample(sample)


def test_compiles_for_hopper(compiled_for_hopper):
    kernels = {report["kernel"] for report in compiled_for_hopper(__name__)}
    assert kernels == {
        "_copy",
        "_add_bias_and_mask",
        "_count",
        "_penalize",
        "_find_floors",
        "_best_of_blocks",
        "_best_of_rows",
    }
