"""silu·mul and gelu·mul."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.gated_activation import gelu_and_mul, reference, silu_and_mul
from kernels.gated_activation.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        gate_up = draw.normal(case.num_tokens, 2 * case.intermediate)
        yield Pair(f"{case} silu", silu_and_mul(gate_up), reference.silu_and_mul(gate_up))
        for form in ("tanh", "none"):
            yield Pair(f"{case} gelu {form}", gelu_and_mul(gate_up, form), reference.gelu_and_mul(gate_up, form))
