from __future__ import annotations

import pytest
import torch

from kernels import native
from kernels.rms_norm import add_rms_norm, reference, rms_norm
from kernels.rms_norm.cases import CASES, Case

TOLERANCE = {torch.bfloat16: 2**-7, torch.float32: 2e-6}


@pytest.fixture(params=(torch.bfloat16, torch.float32), ids=("weight-bf16", "weight-fp32"))
def weight_dtype(request):
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, dtype, weight_dtype, seeded):
    x = torch.randn(case, generator=seeded).to(dtype)
    weight = torch.randn(case.hidden, generator=seeded).to(weight_dtype)
    expected = reference.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_adds_into_the_residual(compiled, case, dtype, seeded):
    x = torch.randn(case, generator=seeded).to(dtype)
    residual, weight = torch.randn(case, generator=seeded).to(dtype), torch.randn(case.hidden, generator=seeded)
    summed = residual.clone()
    expected = reference.add_rms_norm(x, summed, weight, 1e-5)
    torch.testing.assert_close(add_rms_norm(x, residual, weight, 1e-5), expected, rtol=TOLERANCE[dtype], atol=1e-6)
    assert torch.equal(residual, summed)


def test_takes_rows_of_a_wider_buffer(compiled, dtype, seeded):
    buffer = torch.randn(5, 200, generator=seeded).to(dtype)
    x, residual, weight = buffer[:, :64], buffer[:, 100:164], torch.ones(64)
    before = buffer.clone()
    out = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(out, rms_norm(before[:, :64].float().add(before[:, 100:164].float()).to(dtype), weight, 1e-5))
    assert torch.equal(buffer[:, 164:], before[:, 164:])


def test_normalises_the_heads_of_a_fused_buffer(compiled, dtype, seeded):
    buffer, weight = torch.randn(5, 15, 24, generator=seeded).to(dtype), torch.rand(24, generator=seeded)
    heads = buffer[:, 3:12]
    expected = rms_norm(heads.reshape(-1, 24), weight, 1e-5).view(5, 9, 24)
    assert torch.equal(rms_norm(heads, weight, 1e-5), expected)


def test_a_row_has_the_same_bits_alone_and_on_any_thread(compiled, dtype, seeded):
    x = torch.randn(Case(200, 576), generator=seeded).to(dtype)
    weight = torch.randn(576, generator=seeded)
    native.set_num_threads(3)
    together = rms_norm(x, weight, 1e-5)
    native.set_num_threads(1)
    assert torch.equal(rms_norm(x, weight, 1e-5), together)
    assert torch.equal(rms_norm(x[77:78], weight, 1e-5), together[77:78])


def test_reference_is_torchs_own(seeded):
    x, weight = torch.randn(5, 96, generator=seeded), torch.randn(96, generator=seeded)
    torch.testing.assert_close(
        reference.rms_norm(x, weight, 1e-5), torch.nn.functional.rms_norm(x, (96,), weight, 1e-5), rtol=1e-5, atol=1e-6
    )
