"""Rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.gather_rows import gather_rows, reference
from kernels.gather_rows.cases import CASES
from perf.kernel_checks import Draw, Pair

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for case in CASES:
        x, rows = draw.normal(case.num_tokens, case.width), draw.ints(*case.rows).long()
        yield Pair(f"{case}", gather_rows(x, rows), reference.gather_rows(x, rows))
