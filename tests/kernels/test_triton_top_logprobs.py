from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from kernels.top_logprobs import LOWEST, reference
from kernels.top_logprobs.cases import CASES, Case
from kernels.top_logprobs.triton import top_logprobs
from tests.kernels.test_top_logprobs import assert_same, make

# The interpreter computes with NumPy, which warns of what a GPU does in silence.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, triton_device, seeded):
    inputs = make(case, seeded, triton_device)
    before = inputs[0].clone()
    assert_same(top_logprobs(*inputs), reference.top_logprobs(*inputs))
    assert torch.equal(inputs[0], before)


def test_takes_columns_of_a_wider_buffer(triton_device, seeded):
    logits, ids, _ = make(Case(2, 5000, 3, 5), seeded, triton_device)
    columns, ids = logits[:, 700:4900], ids.clamp(max=4199)
    assert_same(top_logprobs(columns, ids, 5), reference.top_logprobs(columns, ids, 5))


def test_of_equally_likely_tokens_the_smaller_id_comes_first(triton_device):
    logits = torch.zeros(1, 9000, device=triton_device)
    logits[0, 1::2] = -0.0
    logits[0, [8500, 4095, 4096]] = 1.0
    found = top_logprobs(logits, torch.empty(1, 0, dtype=torch.int32, device=triton_device), 7)
    assert found.top_ids[0].tolist() == [4095, 4096, 8500, 0, 1, 2, 3]


def test_invalid_rows_and_padding(triton_device):
    logits = torch.zeros(4, 5000, device=triton_device)
    logits[0, 4000], logits[1, 4500], logits[2, 5], logits[3] = -torch.inf, torch.nan, torch.inf, -torch.inf
    ids = torch.tensor([[-1, 4000]], dtype=torch.int32, device=triton_device).expand(4, 2).contiguous()
    found = top_logprobs(logits, ids, 1)
    assert found.normalizers.isfinite().tolist() == [True, False, False, False]
    assert found.values[0].tolist() == [LOWEST, LOWEST]


def test_a_row_has_the_same_bits_alone(triton_device, seeded):
    logits, ids, num_top = make(Case(3, 5000, 2, 4), seeded, triton_device)
    together = top_logprobs(logits, ids, num_top)
    for part, whole in zip(top_logprobs(logits[1:2], ids[1:2], num_top), together, strict=True):
        assert torch.equal(part, whole[1:2])


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    for case in (Case(2, 128256, 1, 20), Case(2, 262144, 0, 128), Case(1, 100, 3, 1)):
        inputs = make(case, torch.Generator().manual_seed(7))
        yield repr(case), lambda inputs=inputs: top_logprobs(*inputs)


def test_compiles_for_hopper(compiled_for_hopper):
    assert {report["kernel"] for report in compiled_for_hopper(__name__)} == {"_reduce_blocks", "_join_blocks"}
