"""The definition of log probabilities on the device, against the server's on the CPU; and inputs to test its kernels with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.top_logprobs import LOWEST, MAX_TOP, TopLogprobs, top_logprobs
from kernels.top_logprobs.cases import CASES, Case
from runtime.params import LogprobOptions
from runtime.sampling.logprobs import token_logprobs


def make(case: Case, generator: torch.Generator, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, int]:
    """Logits with ties, some of them masked, token ids and how many of the likeliest are wanted."""
    logits = (torch.randn(case.num_rows, case.vocab_size, generator=generator) * 3).round(decimals=1)
    logits[:, 1::7] = -torch.inf
    ids = torch.randint(0, case.vocab_size, (case.num_rows, case.num_ids), generator=generator).int()
    return logits.to(device), ids.to(device), min(case.num_top, case.vocab_size)


def assert_same(found: TopLogprobs, expected: TopLogprobs) -> None:
    assert torch.equal(found.top_ids, expected.top_ids)
    for numbers, expected_numbers in zip(found, expected, strict=True):
        torch.testing.assert_close(numbers, expected_numbers, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.num_ids])
def test_they_are_the_servers(case, seeded):
    logits, ids, num_top = make(case, seeded)
    found = top_logprobs(logits, ids, case.num_top)
    for index in range(case.num_rows):
        options = LogprobOptions(num_top=num_top, token_ids=tuple(ids[index].tolist()))
        row = logits[index : index + 1].numpy()
        expected = token_logprobs(row, ids[index, :1].long().numpy(), options)
        np.testing.assert_allclose(found.values[index].tolist(), [value for _, value in expected.chosen[0]], rtol=1e-6)
        top = expected.top[0] if num_top else ()
        assert found.top_ids[index].tolist() == [token_id for token_id, _ in top]
        np.testing.assert_allclose(found.top_values[index].tolist(), [value for _, value in top], rtol=1e-6)


def test_an_invalid_row_has_no_normalizer():
    logits = torch.zeros(4, 8)
    logits[1, 3], logits[2, 5], logits[3] = torch.nan, torch.inf, -torch.inf
    normalizers = top_logprobs(logits, torch.zeros(4, 1).int(), 2).normalizers
    assert normalizers.isfinite().tolist() == [True, False, False, False]
    assert normalizers[0] == pytest.approx(np.log(8))


def test_padding_and_what_can_not_come_have_the_lowest_value():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    found = top_logprobs(logits, torch.tensor([[-1, 1, 2]]).int(), 3)
    assert found.values[0].tolist() == pytest.approx([LOWEST, LOWEST, np.log(0.5)])
    assert found.top_ids[0].tolist() == [0, 2, 1]


def test_too_many_are_refused():
    with pytest.raises(ValueError, match=f"0 to {MAX_TOP}, not {MAX_TOP + 1}"):
        top_logprobs(torch.zeros(1, 500), torch.zeros(1, 0).int(), MAX_TOP + 1)
