from __future__ import annotations

import pytest
import torch

from kernels.gather_rows import gather_rows, reference
from kernels.gather_rows.cases import CASES


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, dtype, seeded):
    x, rows = torch.randn(case.num_tokens, case.width, generator=seeded).to(dtype), torch.tensor(case.rows, dtype=torch.int64)
    assert torch.equal(gather_rows(x, rows), reference.gather_rows(x, rows))


def test_takes_columns_of_a_wider_buffer(compiled, seeded):
    buffer, rows = torch.randn(9, 100, generator=seeded), torch.tensor([7, 1, 7])
    assert torch.equal(gather_rows(buffer[:, 30:70], rows), buffer[rows, 30:70])
