"""Products of rows with the weights of their own experts."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.expert_routing import reference as routing
from kernels.grouped_linear import grouped_linear, reference
from kernels.grouped_linear.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        _, experts = routing.route(draw.normal(case.num_tokens, case.num_experts), case.top_k, renormalise=False)
        order = routing.sort_by_expert(experts, case.num_experts, case.rows_per_tile)
        weight = draw.normal(case.num_experts, case.num_outputs, case.num_inputs)
        for from_tokens in (True, False):
            num_rows = case.num_tokens * (1 if from_tokens else case.top_k)
            x = draw.normal(num_rows, case.num_inputs)
            actual = grouped_linear(x, weight, order, from_tokens=from_tokens)
            yield Pair(f"{case}", actual, reference.grouped_linear(x, weight, order, from_tokens=from_tokens))
