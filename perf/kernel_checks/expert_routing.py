"""Choosing experts, sorting tokens by expert and adding the answers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.expert_routing import combine, reference, route, sort_by_expert
from kernels.expert_routing.cases import CASES, Case
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        logits = draw.normal(case.num_tokens, case.num_experts, dtype=torch.float32)
        weights, experts = route(logits, case.top_k, renormalise=True)
        expected_weights, expected_experts = reference.route(logits, case.top_k, renormalise=True)
        yield Pair(f"{case} experts", experts, expected_experts)
        yield Pair(f"{case} weights", weights, expected_weights)
        yield from _order_and_sum(case, expected_experts, expected_weights, draw)


def _order_and_sum(case: Case, experts: torch.Tensor, weights: torch.Tensor, draw: Draw) -> Iterator[Pair]:
    order = sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    expected = reference.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
    yield Pair(f"{case} pairs", order.pairs, expected.pairs)
    yield Pair(f"{case} tiles", order.tile_experts, expected.tile_experts)
    answers = draw.normal(experts.numel(), case.hidden)
    yield Pair(f"{case} sum", combine(answers, weights, expected), reference.combine(answers, weights, expected))
