"""Products whose rows do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.invariant_linear import invariant_linear, reference
from kernels.invariant_linear.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        x, weight = draw.normal(case.num_rows, case.num_inputs), draw.normal(case.num_outputs, case.num_inputs)
        bias = draw.normal(case.num_outputs) if case.has_bias else None
        actual = invariant_linear(x, weight, bias)
        yield Pair(f"{case}", actual, reference.invariant_linear(x, weight, bias))
        if draw.device.type == "cuda" and case.num_rows > 1:
            yield Pair(f"{case} alone", invariant_linear(x[1:2], weight, bias).view(-1), actual[1])
