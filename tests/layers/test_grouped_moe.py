"""The mixture for a GPU answers as the one for a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from runtime.layers.gated_mlp import ACTIVATIONS, GatedMlp
from runtime.layers.grouped_moe import GroupedMixture
from runtime.layers.linear import PlainLinear
from runtime.layers.moe import MixtureOfExperts, SharedExpert

HIDDEN, INTERMEDIATE, NUM_EXPERTS = 48, 40, 6


def pair(*, has_shared: bool, renormalise: bool) -> tuple[MixtureOfExperts, GroupedMixture]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / 4

    gate_up, down = draw(NUM_EXPERTS, 2 * INTERMEDIATE, HIDDEN), draw(NUM_EXPERTS, HIDDEN, INTERMEDIATE)
    silu = ACTIVATIONS["silu"]
    shared = None
    if has_shared:
        mlp = GatedMlp(PlainLinear(draw(2 * INTERMEDIATE, HIDDEN), None), PlainLinear(draw(HIDDEN, INTERMEDIATE), None), silu)
        shared = SharedExpert(mlp, PlainLinear(draw(1, HIDDEN), None))
    router = PlainLinear(draw(NUM_EXPERTS, HIDDEN), None)
    experts = tuple(GatedMlp(PlainLinear(gate_up[i], None), PlainLinear(down[i], None), silu) for i in range(NUM_EXPERTS))
    listed = MixtureOfExperts(router=router, experts=experts, top_k=3, renormalise=renormalise, shared=shared)
    grouped = GroupedMixture(
        router=router,
        gate_up=gate_up,
        down=down,
        activation=silu,
        top_k=3,
        renormalise=renormalise,
        shared=shared,
        is_invariant=False,
    )
    return listed, grouped


@pytest.mark.parametrize("num_tokens", [1, 2, 33])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("has_shared", [False, True])
def test_answers_are_those_of_the_experts_one_by_one(has_shared: bool, renormalise: bool, num_tokens: int) -> None:
    listed, grouped = pair(has_shared=has_shared, renormalise=renormalise)
    hidden = torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(grouped(hidden), listed(hidden), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(replace(grouped, is_invariant=True)(hidden), listed(hidden), atol=1e-5, rtol=1e-5)


def test_its_weights_are_counted_once() -> None:
    listed, grouped = pair(has_shared=True, renormalise=True)
    assert sum(p.size_bytes for p in grouped.products) == sum(p.size_bytes for p in listed.products)
