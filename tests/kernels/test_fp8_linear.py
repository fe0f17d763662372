from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernels import fp8_linear as operation
from kernels.fp8_linear import BLOCK, reference, triton
from kernels.fp8_linear.cases import CASES

TOLERANCE = {torch.bfloat16: (2**-7, 3e-2), torch.float16: (2**-9, 2e-2), torch.float32: (1e-5, 1e-4)}
if torch.cuda.is_available():
    TOLERANCE[torch.float32] = (1e-3, 1e-2)  # the tensor cores keep 14 bits of a block's sum


@pytest.fixture
def draw(triton_device, seeded):
    return lambda *shape, dtype=torch.float32: torch.randn(shape, generator=seeded).to(triton_device, dtype)


def draw_weight(num_outputs, num_inputs, draw):
    """Values and scales, of which no two blocks have the same."""
    scales = draw(-(-num_outputs // BLOCK), -(-num_inputs // BLOCK)).float().abs() + 0.1
    return draw(num_outputs, num_inputs).to(torch.float8_e4m3fn), scales


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, draw, triton_dtype):
    x = draw(case.num_rows, case.num_inputs, dtype=triton_dtype)
    weight, scales = draw_weight(case.num_outputs, case.num_inputs, draw)
    bias = draw(case.num_outputs, dtype=triton_dtype) if case.has_bias else None
    rtol, atol = TOLERANCE[triton_dtype]
    expected = reference.fp8_linear(x, weight, scales, bias)
    torch.testing.assert_close(triton.fp8_linear(x, weight, scales, bias), expected, rtol=rtol, atol=atol)


def test_the_reference_is_near_the_product_of_the_numbers(seeded):
    x, weight = torch.randn(4, 300, generator=seeded), torch.randn(200, 300, generator=seeded).to(torch.float8_e4m3fn)
    exact = x @ weight.float().T
    error = reference.fp8_linear(x, weight, torch.ones(2, 3)) - exact
    assert error.norm() < 0.04 * exact.norm()


@pytest.mark.parametrize("case", CASES)
def test_quantizes_as_the_reference(case, draw, triton_dtype):
    x = draw(case.num_rows, case.num_inputs, dtype=triton_dtype) ** 5  # small numbers beside large ones
    values, scales = triton.quantize(x)
    expected_values, expected_scales = reference.quantize(x)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(values.float(), expected_values.float())


@pytest.mark.parametrize("quantize", [reference.quantize, triton.quantize])
def test_the_largest_of_a_group_is_exact_and_zeros_stay(quantize, triton_device):
    x = torch.zeros(2, 260, device=triton_device)
    x[0, 5], x[0, 7], x[1, 130], x[1, 259] = 3.0, -1.5, 1e-20, 1e30
    values, scales = quantize(x)
    assert scales[0, 1:].tolist() == [1.0, 1.0]
    restored = values.float() * scales.repeat_interleave(BLOCK, dim=1)[:, :260]
    torch.testing.assert_close(restored, x, rtol=1e-6, atol=0)


def test_a_row_has_the_same_bits_alone_and_among_others(draw):
    x, (weight, scales) = draw(66, 1100), draw_weight(40, 1100, draw)
    together = triton.fp8_linear(x, weight, scales)
    for row in (0, 65):
        assert torch.equal(triton.fp8_linear(x[row : row + 1], weight, scales), together[row : row + 1])


@pytest.mark.parametrize("has_bias", [False, True])
def test_slices_of_one_program_and_of_many_have_the_same_bits(has_bias, draw, monkeypatch):
    x, (weight, scales), bias = draw(5, 2100), draw_weight(40, 2100, draw), draw(40) if has_bias else None
    apart = triton.fp8_linear(x, weight, scales, bias)
    monkeypatch.setattr(triton, "slices_of", lambda *_: 4)
    monkeypatch.setattr(triton, "TARGET_PROGRAMS", 1)
    assert torch.equal(triton.fp8_linear(x, weight, scales, bias), apart)


def test_takes_rows_of_a_wider_buffer(draw):
    x, (weight, scales) = draw(5, 300)[:, 7:140], draw_weight(40, 133, draw)
    expected = triton.fp8_linear(x.contiguous(), weight, scales)
    assert torch.equal(triton.fp8_linear(x, weight, scales), expected)


def test_a_cpu_tensor_goes_to_the_reference(seeded):
    x, weight = torch.randn(2, 100, generator=seeded), torch.randn(3, 100, generator=seeded).to(torch.float8_e4m3fn)
    scales = torch.full((1, 1), 0.5)
    assert torch.equal(operation.fp8_linear(x, weight, scales), reference.fp8_linear(x, weight, scales))
    assert torch.equal(operation.quantize(x)[1], reference.quantize(x)[1])


def launches():
    """Products of DeepSeek-V3's attention: in slices, and many rows."""
    for num_rows, num_outputs, num_inputs in ((1, 1536, 7168), (5000, 7168, 2048), (1, 200, 300)):
        x = torch.empty(num_rows, num_inputs, dtype=torch.bfloat16)
        weight = torch.empty(num_outputs, num_inputs, dtype=torch.float8_e4m3fn)
        scales = torch.empty(-(-num_outputs // BLOCK), -(-num_inputs // BLOCK))
        yield f"{num_rows} {num_outputs}", lambda x=x, w=weight, s=scales: triton.fp8_linear(x, w, s)


def test_compiles_for_hopper(compiled_for_hopper):
    assert len(compiled_for_hopper(__name__)) == 7
