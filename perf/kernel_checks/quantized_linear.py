"""Products with weights in blocks of 4 and 8 bits, in C."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.quantized_linear import quantize, quantized_linear, reference
from kernels.quantized_linear.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu",)


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        x, bias = draw.normal(case.num_rows, case.num_inputs), draw.normal(case.num_outputs, dtype=torch.float32)
        for bits in (8, 4):
            packed = quantize(draw.normal(case.num_outputs, case.num_inputs, dtype=torch.float32), bits)
            expected = reference.quantized_linear(x, packed, bias, draw.dtype)
            yield Pair(f"{case} {bits} bits", quantized_linear(x, packed, bias), expected)
