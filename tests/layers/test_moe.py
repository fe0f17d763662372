"""Mixtures of experts: what a token's experts answer, added up; the same bits whatever tokens are beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from runtime.layers.gated_mlp import ACTIVATIONS, GatedMlp
from runtime.layers.linear import Linear, make_linear
from runtime.layers.moe import MixtureOfExperts, SharedExpert

HIDDEN, INTERMEDIATE, NUM_EXPERTS, TOP_K = 48, 40, 6, 3


def draw_mixture(dtype: torch.dtype, *, has_shared: bool, renormalise: bool = True) -> MixtureOfExperts:
    generator = torch.Generator().manual_seed(3)

    def linear(num_outputs: int, num_inputs: int) -> Linear:
        return make_linear(torch.randn(num_outputs, num_inputs, generator=generator).to(dtype) / 4)

    def gated() -> GatedMlp:
        return GatedMlp(linear(2 * INTERMEDIATE, HIDDEN), linear(HIDDEN, INTERMEDIATE), ACTIVATIONS["silu"])

    return MixtureOfExperts(
        router=linear(NUM_EXPERTS, HIDDEN),
        experts=tuple(gated() for _ in range(NUM_EXPERTS)),
        top_k=TOP_K,
        renormalise=renormalise,
        shared=SharedExpert(gated(), linear(1, HIDDEN)) if has_shared else None,
    )


def draw_hidden(num_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(4)).to(dtype)


def expected_answer(mixture: MixtureOfExperts, token: torch.Tensor) -> torch.Tensor:
    """token: [1, hidden]. By the definition, one expert at a time."""
    probabilities = torch.softmax(mixture.router(token)[0], dim=0)
    chosen = probabilities.topk(TOP_K).indices
    total = torch.zeros(HIDDEN)
    for expert in chosen:
        weight = probabilities[expert] / (probabilities[chosen].sum() if mixture.renormalise else 1.0)
        total += weight * mixture.experts[expert](token)[0]
    if mixture.shared is not None:
        total += torch.sigmoid(mixture.shared.gate(token)[0]) * mixture.shared.mlp(token)[0]
    return total


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("has_shared", [False, True])
def test_adds_what_the_chosen_experts_answer(has_shared: bool, renormalise: bool) -> None:
    mixture, hidden = (
        draw_mixture(torch.float32, has_shared=has_shared, renormalise=renormalise),
        draw_hidden(20, torch.float32),
    )
    expected = torch.stack([expected_answer(mixture, token[None]) for token in hidden])
    torch.testing.assert_close(mixture(hidden), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_shared", [False, True])
def test_a_token_has_the_same_bits_alone_and_among_others(has_shared: bool, dtype: torch.dtype) -> None:
    mixture, hidden = draw_mixture(dtype, has_shared=has_shared), draw_hidden(69, dtype)
    together = mixture(hidden)
    assert together.dtype == dtype
    for token in (0, 1, 8, 33, 67, 68):
        assert torch.equal(mixture(hidden[token : token + 1]), together[token : token + 1])
    for first, last in ((0, 7), (7, 40), (60, 69)):
        assert torch.equal(mixture(hidden[first:last]), together[first:last])


def test_what_is_not_finite_stays_in_its_token() -> None:
    mixture, hidden = draw_mixture(torch.float32, has_shared=True), draw_hidden(5, torch.float32)
    clean = mixture(hidden)
    hidden[2, 7] = float("nan")
    dirty = mixture(hidden)
    assert dirty[2].isnan().all()
    assert torch.equal(dirty[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@dataclass(frozen=True)
class CountedLinear:
    """Notes the number of rows of each call."""

    product: Linear
    calls: list[int]

    @property
    def size_bytes(self) -> int:
        return self.product.size_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(x.shape[0])
        return self.product(x)


def test_each_expert_is_called_once_for_all_its_tokens_and_not_without_any() -> None:
    mixture, calls = draw_mixture(torch.float32, has_shared=False), []
    counted = (replace(expert, gate_up=CountedLinear(expert.gate_up, calls)) for expert in mixture.experts)
    mixture = replace(mixture, experts=tuple(counted))
    mixture(draw_hidden(1, torch.float32))
    assert calls == [1] * TOP_K
    calls.clear()
    mixture(draw_hidden(50, torch.float32))
    assert len(calls) <= NUM_EXPERTS
    assert sum(calls) == 50 * TOP_K


def test_names_every_product_once() -> None:
    mixture = draw_mixture(torch.float32, has_shared=True)
    assert len({id(product) for product in mixture.products}) == 1 + 3 + 2 * NUM_EXPERTS
