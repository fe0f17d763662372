from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from kernels.paged_attention import reference
from kernels.paged_attention.cases import CASES, Case
from kernels.paged_attention.triton import paged_attention
from tests.kernels.test_paged_attention import Batch, ints, make

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def to(batch: Batch, device: torch.device) -> Batch:
    return batch


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, triton_dtype, seeded):
    batch = make(case, triton_dtype, seeded)
    tolerance = TOLERANCE[triton_dtype]
    torch.testing.assert_close(
        batch.attend(paged_attention), batch.attend(reference.paged_attention), rtol=tolerance, atol=tolerance
    )


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    for case in CASES:
        batch = make(case, torch.bfloat16, torch.Generator().manual_seed(7))
        yield repr(case), lambda batch=batch: batch.attend(paged_attention)


def test_compiles_for_hopper(compiled_for_hopper):
    compiled_for_hopper(__name__)
