from __future__ import annotations

import pytest
import torch

from kernels.argmax import argmax

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (9, 1000), (0, 64)])
def test_finds_the_largest(shape, seeded):
    logits = torch.randn(shape, generator=seeded)
    assert argmax(logits).tolist() == [int(row.argmax()) for row in logits]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 2.0, 2.0, 1.0], 1),
        ([-INF, -5.0, -INF, -INF], 1),
        ([-INF, -INF, -INF, -INF], -1),
        ([1.0, NAN, 2.0, 0.0], -1),
        ([1.0, INF, 2.0, 0.0], -1),
    ],
    ids=("equal", "masked", "nothing left", "NaN", "infinite"),
)
def test_of_equal_logits_the_first_and_of_bad_rows_none(row, expected):
    assert argmax(torch.tensor([row, [0.0, 1.0, 0.0, 0.0]])).tolist() == [expected, 1]
