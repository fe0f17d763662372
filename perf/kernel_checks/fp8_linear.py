"""Products in 8-bit floating point, and the rounding before them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.fp8_linear import BLOCK, fp8_linear, quantize, reference
from kernels.fp8_linear.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        x = draw.normal(case.num_rows, case.num_inputs)
        weight = draw.normal(case.num_outputs, case.num_inputs).to(torch.float8_e4m3fn)
        scales = draw.even(-(-case.num_outputs // BLOCK), -(-case.num_inputs // BLOCK))
        bias = draw.normal(case.num_outputs) if case.has_bias else None
        yield Pair(f"{case}", fp8_linear(x, weight, scales, bias), reference.fp8_linear(x, weight, scales, bias))
        values, groups = quantize(x)
        expected_values, expected_groups = reference.quantize(x)
        yield Pair(f"{case} values", values.float(), expected_values.float())
        yield Pair(f"{case} scales", groups, expected_groups)
