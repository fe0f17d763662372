from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import fields

import pytest
import torch

pytest.importorskip("triton")

from kernels import expert_routing
from kernels.expert_routing import max_tiles, reference, triton
from kernels.expert_routing.cases import CASES

TOLERANCE = {torch.bfloat16: (2**-7, 1e-6), torch.float16: (2**-10, 1e-6), torch.float32: (1e-5, 1e-6)}


@pytest.fixture
def draw(triton_device, seeded):
    return lambda *shape, dtype=torch.float32: torch.randn(shape, generator=seeded).to(triton_device, dtype)


def draw_experts(case, draw):
    """Uneven: the first experts have the most tokens, and some may have none."""
    logits = draw(case.num_tokens, case.num_experts)
    logits -= torch.arange(case.num_experts, device=logits.device) / 3
    return reference.route(logits, case.top_k, renormalise=False)[1]


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_chooses_as_the_reference(case, renormalise, draw, triton_dtype):
    logits = draw(case.num_tokens, case.num_experts, dtype=triton_dtype)
    weights, experts = triton.route(logits, case.top_k, renormalise=renormalise, scale=2.5)
    expected_weights, expected_experts = reference.route(logits, case.top_k, renormalise=renormalise, scale=2.5)
    assert torch.equal(experts, expected_experts)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)


def test_of_equal_experts_the_first_is_chosen(triton_device):
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]], device=triton_device)
    for routes in (triton.route, reference.route):
        assert routes(logits, 4, renormalise=False)[1].tolist() == [[1, 3, 0, 2]]


def test_a_token_that_is_not_finite_keeps_to_itself(draw):
    logits = draw(3, 6)
    weights, experts = triton.route(logits, 4, renormalise=True)
    logits[1, 2] = float("nan")
    dirty_weights, dirty_experts = triton.route(logits, 4, renormalise=True)
    assert dirty_weights[1].isnan().all()
    assert dirty_experts[1].tolist() == [0, 1, 2, 3]
    assert torch.equal(dirty_weights[[0, 2]], weights[[0, 2]])
    assert torch.equal(dirty_experts[[0, 2]], experts[[0, 2]])


@pytest.mark.parametrize("case", CASES)
def test_sorts_as_the_reference(case, draw, monkeypatch):
    monkeypatch.setattr(triton, "CHUNK_PAIRS", 64)
    monkeypatch.setattr(triton, "CHUNK_TILES", 4)
    experts = draw_experts(case, draw)
    order = triton.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    expected = reference.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    for field in fields(order):
        actual_value, expected_value = getattr(order, field.name), getattr(expected, field.name)
        assert actual_value == expected_value if isinstance(actual_value, int) else torch.equal(actual_value, expected_value), (
            field.name
        )


@pytest.mark.parametrize("case", CASES)
def test_the_order_has_each_pair_once_and_tiles_of_one_expert(case, draw):
    experts = draw_experts(case, draw)
    order = reference.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    assert torch.equal(order.rows.flatten()[order.pairs.long()], torch.arange(experts.numel(), device=experts.device))
    sorted_experts, covered = experts.flatten()[order.pairs.long()].tolist(), []
    for expert, start in zip(order.tile_experts.tolist(), order.tile_starts.tolist(), strict=True):
        if expert >= 0:
            rows = range(start, min(start + case.rows_per_tile, order.starts[expert + 1]))
            assert all(sorted_experts[row] == expert for row in rows)
            covered += rows
    assert covered == list(range(experts.numel()))


@pytest.mark.parametrize("rows_per_tile", [1, 2, 4])
@pytest.mark.parametrize("num_experts", [1, 2, 3, 4])
def test_no_spread_over_experts_needs_more_tiles(num_experts, rows_per_tile):
    for num_pairs in range(10):
        spreads = itertools.combinations_with_replacement(range(num_experts), num_pairs)
        most = max(sum(-(-size // rows_per_tile) for size in Counter(spread).values()) for spread in spreads)
        assert most <= max_tiles(num_pairs, num_experts, rows_per_tile)


@pytest.mark.parametrize("case", CASES)
def test_combines_as_the_reference(case, draw, triton_dtype):
    weights, experts = reference.route(draw(case.num_tokens, case.num_experts), case.top_k, renormalise=True)
    order = reference.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    answers = draw(experts.numel(), case.hidden, dtype=triton_dtype)
    rtol, atol = TOLERANCE[triton_dtype]
    expected = reference.combine(answers, weights, order)
    torch.testing.assert_close(triton.combine(answers, weights, order), expected, rtol=rtol, atol=atol)
    one_by_one = (weights[:, :, None] * answers.float()[order.rows.long()]).sum(dim=1)
    torch.testing.assert_close(expected.float(), one_by_one, rtol=rtol, atol=max(atol, rtol / 10))


def test_a_cpu_tensor_goes_to_the_reference(seeded):
    weights, experts = expert_routing.route(torch.randn(3, 8, generator=seeded), 2, renormalise=True)
    order = expert_routing.sort_by_expert(experts, 8, 16)
    answers = torch.randn(6, 4, generator=seeded)
    assert torch.equal(expert_routing.combine(answers, weights, order), reference.combine(answers, weights, order))
    with pytest.raises(AssertionError):
        expert_routing.route(torch.zeros(3, 8), 9, renormalise=True)


def launches():
    """One token and a long prompt of Qwen3-30B-A3B."""
    for num_tokens in (1, 3000):
        logits = torch.empty(num_tokens, 128, dtype=torch.bfloat16)
        experts, weights = torch.empty(num_tokens, 8, dtype=torch.int32), torch.empty(num_tokens, 8)
        answers = torch.empty(num_tokens * 8, 2048, dtype=torch.bfloat16)
        order = reference.sort_by_expert(torch.zeros_like(experts), 128, 16)
        yield "route", lambda logits=logits: triton.route(logits, 8, renormalise=True)
        yield "sort", lambda experts=experts: triton.sort_by_expert(experts, 128, 16)
        yield "combine", lambda answers=answers, weights=weights, order=order: triton.combine(answers, weights, order)


def test_compiles_for_hopper(compiled_for_hopper):
    assert len(compiled_for_hopper(__name__)) == 8
