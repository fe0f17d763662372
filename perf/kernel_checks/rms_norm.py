"""RMS normalisation, alone, per head and with the residual."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.rms_norm import add_rms_norm, reference, rms_norm
from kernels.rms_norm.cases import CASES
from perf.kernel_checks import Draw, Pair

EPS = 1e-5

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        x, residual = draw.normal(*case), draw.normal(*case)
        weight, summed = draw.even(case.hidden), residual.clone()
        yield Pair(f"{case}", rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS))
        expected = reference.add_rms_norm(x, summed, weight, EPS)
        yield Pair(f"{case} added", add_rms_norm(x, residual, weight, EPS), expected)
        yield Pair(f"{case} residual", residual, summed)
    heads, weight = draw.normal(5, 15, 24)[:, 3:12], draw.even(24)
    yield Pair("heads of a fused buffer", rms_norm(heads, weight, EPS), reference.rms_norm(heads, weight, EPS))
