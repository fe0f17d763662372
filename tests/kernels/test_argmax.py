from __future__ import annotations

import pytest
import torch

from kernels.argmax import argmax, reference
from kernels.argmax.cases import CASES


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, seeded):
    logits = torch.randn(case, generator=seeded)
    assert torch.equal(argmax(logits), reference.argmax(logits))


def test_the_first_of_equal_logits_wins(compiled):
    logits = torch.zeros(1, 5000)
    logits[0, [17, 18, 4000]] = 2.0
    assert argmax(logits).tolist() == [17]
    assert reference.argmax(logits).tolist() == [17]


def test_masked_and_strange_rows_give_an_index(compiled):
    logits = torch.full((3, 100), float("-inf"))
    logits[1, 60] = -5.0
    logits[2, 30:] = float("nan")
    logits[2, 7] = 1.0
    assert argmax(logits).tolist() == [0, 60, 7]


def test_takes_columns_of_a_wider_buffer(compiled, seeded):
    logits = torch.randn(4, 200, generator=seeded)
    assert torch.equal(argmax(logits[:, :150]), reference.argmax(logits[:, :150]))
