from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernels import grouped_linear as operation
from kernels.expert_routing import reference as routing
from kernels.grouped_linear import reference, rows_per_tile, triton
from kernels.grouped_linear.cases import CASES

TOLERANCE = {torch.bfloat16: (2**-7, 2e-2), torch.float16: (2**-10, 1e-2), torch.float32: (1e-5, 1e-4)}


@pytest.fixture
def draw(triton_device, triton_dtype, seeded):
    return lambda *shape: torch.randn(shape, generator=seeded).to(triton_device, triton_dtype)


def draw_order(num_tokens, num_experts, top_k, rows_per_tile, draw):
    """Uneven: the first experts have the most tokens, and some may have none."""
    logits = draw(num_tokens, num_experts)
    logits -= torch.arange(num_experts, device=logits.device) / 3
    return routing.sort_by_expert(routing.route(logits, top_k, renormalise=False)[1], num_experts, rows_per_tile)


@pytest.mark.parametrize("from_tokens", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, from_tokens, draw):
    order = draw_order(case.num_tokens, case.num_experts, case.top_k, case.rows_per_tile, draw)
    x = draw(case.num_tokens if from_tokens else case.num_tokens * case.top_k, case.num_inputs)
    weight = draw(case.num_experts, case.num_outputs, case.num_inputs)
    rtol, atol = TOLERANCE[x.dtype]
    expected = reference.grouped_linear(x, weight, order, from_tokens=from_tokens)
    actual = triton.grouped_linear(x, weight, order, from_tokens=from_tokens)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def test_the_reference_gives_each_token_its_own_experts(seeded):
    experts = torch.tensor([[2, 0], [0, 1], [2, 1]], dtype=torch.int32)
    order = routing.sort_by_expert(experts, 3, 16)
    x, weight = torch.randn(3, 5, generator=seeded), torch.randn(3, 4, 5, generator=seeded)
    answers = reference.grouped_linear(x, weight, order, from_tokens=True)[order.rows.long()]  # [tokens, top_k, outputs]
    for token, row in enumerate(experts.tolist()):
        for slot, expert in enumerate(row):
            torch.testing.assert_close(answers[token, slot], weight[expert] @ x[token])


@pytest.mark.parametrize("rows", triton.HALF)
def test_a_row_has_the_same_bits_alone_and_among_others(rows, draw):
    x, weight = draw(70, 96), draw(2, 40, 96)
    experts = (torch.arange(70, dtype=torch.int32, device=x.device) % 2)[:, None]
    order = routing.sort_by_expert(experts, 2, rows)
    together = triton.grouped_linear(x, weight, order, from_tokens=True)[order.rows[:, 0].long()]
    for token in (0, 37, 69):
        alone = routing.sort_by_expert(experts[token : token + 1], 2, rows)
        assert torch.equal(
            triton.grouped_linear(x[token : token + 1], weight, alone, from_tokens=True), together[token : token + 1]
        )


def test_takes_rows_of_a_wider_buffer(draw):
    x, weight, order = draw(5, 100)[:, 7:40], draw(3, 40, 33), draw_order(5, 3, 2, 16, draw)
    expected = triton.grouped_linear(x.contiguous(), weight, order, from_tokens=True)
    assert torch.equal(triton.grouped_linear(x, weight, order, from_tokens=True), expected)


def test_what_is_not_finite_stays_in_its_rows(draw):
    x, weight, order = draw(5, 64), draw(3, 40, 64), draw_order(5, 3, 2, 16, draw)
    clean = triton.grouped_linear(x, weight, order, from_tokens=True)
    x[1, 5] = float("nan")
    dirty = triton.grouped_linear(x, weight, order, from_tokens=True)
    is_dirty = order.pairs // 2 == 1
    assert dirty[is_dirty].isnan().all()
    assert torch.equal(dirty[~is_dirty], clean[~is_dirty])


def test_tiles_grow_with_the_rows_of_an_expert_unless_bits_must_not_change():
    assert [rows_per_tile(num_pairs, 128) for num_pairs in (8, 2048, 2176, 8192, 65536)] == [16, 16, 32, 64, 128]
    assert {rows_per_tile(num_pairs, 128, is_deterministic=True) for num_pairs in (8, 65536)} == {64}


def test_a_cpu_tensor_goes_to_the_reference(seeded):
    x, weight = torch.randn(2, 10, generator=seeded), torch.randn(3, 4, 10, generator=seeded)
    order = routing.sort_by_expert(torch.tensor([[0], [2]], dtype=torch.int32), 3, 16)
    expected = reference.grouped_linear(x, weight, order, from_tokens=True)
    assert torch.equal(operation.grouped_linear(x, weight, order, from_tokens=True), expected)


def launches():
    """Products of Qwen3-30B-A3B's experts, with tiles of every size."""
    products = ((2048, 1536, True), (768, 2048, False))
    for rows, (inputs, outputs, from_tokens) in zip(triton.HALF, products * 2, strict=True):
        order = routing.sort_by_expert(torch.zeros(3, 8, dtype=torch.int32), 4, rows)
        x = torch.empty(3 if from_tokens else 24, inputs, dtype=torch.bfloat16)
        weight = torch.empty(4, outputs, inputs, dtype=torch.bfloat16)
        yield f"{rows}", lambda x=x, w=weight, o=order, f=from_tokens: triton.grouped_linear(x, w, o, from_tokens=f)


def test_compiles_for_hopper(compiled_for_hopper):
    assert len(compiled_for_hopper(__name__)) == 4
