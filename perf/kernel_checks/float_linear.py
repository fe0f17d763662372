"""Products with packed plain weights, in C."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels import native
from kernels.float_linear import float_linear, pack_panels, reference
from kernels.float_linear.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu",)


def pairs(draw: Draw) -> Iterator[Pair]:
    if native.function("float_linear") is None:
        return
    for case in CASES:
        x, weight = draw.normal(case.num_tokens, case.num_inputs), draw.normal(case.num_outputs, case.num_inputs)
        bias = draw.normal(case.num_outputs, dtype=torch.float32) if case.has_bias else None
        yield Pair(f"{case}", float_linear(x, pack_panels(weight), bias), reference.float_linear(x, weight, bias))
