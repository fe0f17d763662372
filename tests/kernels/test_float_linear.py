from __future__ import annotations

import pytest
import torch

from kernels import native
from kernels.argmax import argmax
from kernels.float_linear import float_linear, float_linear_argmax, pack_panels, reference
from kernels.float_linear.cases import CASES, Case

TOLERANCE = {torch.bfloat16: (2**-7, 2e-2), torch.float32: (1e-5, 1e-4)}


def draw(case, dtype, seeded):
    x = torch.randn(case.num_tokens, case.num_inputs, generator=seeded).to(dtype)
    weight = torch.randn(case.num_outputs, case.num_inputs, generator=seeded).to(dtype)
    bias = torch.randn(case.num_outputs, generator=seeded) if case.has_bias else None
    return x, weight, bias


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, dtype, seeded):
    x, weight, bias = draw(case, dtype, seeded)
    rtol, atol = TOLERANCE[dtype]
    expected = reference.float_linear(x, weight, bias)
    torch.testing.assert_close(float_linear(x, pack_panels(weight), bias), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", CASES)
def test_a_row_has_the_same_bits_alone_and_on_any_thread(compiled, case, dtype, seeded):
    x, weight, bias = draw(case, dtype, seeded)
    packed = pack_panels(weight)
    native.set_num_threads(3)
    together = float_linear(x, packed, bias)
    native.set_num_threads(1)
    for row in range(case.num_tokens):
        assert torch.equal(float_linear(x[row : row + 1], packed, bias), together[row : row + 1])


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("case", [*CASES, Case(29, 64, 3000, True), Case(5, 40, 5003, False)])
def test_finds_the_largest_output_without_storing_any(compiled, case, dtype, num_threads, seeded):
    x, weight, bias = draw(case, dtype, seeded)
    x[3::5] = 0.0  # all outputs are equal, or the bias
    x[4::5, -1] = float("nan")
    packed = pack_panels(weight)
    native.set_num_threads(num_threads)
    expected = argmax(float_linear(x, packed, bias))  # in bfloat16 many outputs are equal
    assert torch.equal(float_linear_argmax(x, packed, bias), expected)


def test_a_wider_result_holds_the_same_numbers(compiled, dtype, seeded):
    x, weight = torch.randn(3, 64, generator=seeded).to(dtype), torch.randn(40, 64, generator=seeded).to(dtype)
    packed = pack_panels(weight)
    wide = float_linear(x, packed, out_dtype=torch.float32)
    assert wide.dtype is torch.float32
    assert torch.equal(wide, float_linear(x, packed).float())


def test_takes_rows_of_a_wider_buffer(compiled, dtype, seeded):
    buffer, weight = torch.randn(5, 100, generator=seeded).to(dtype), torch.randn(40, 33, generator=seeded).to(dtype)
    packed = pack_panels(weight)
    assert torch.equal(float_linear(buffer[:, 7:40], packed), float_linear(buffer[:, 7:40].contiguous(), packed))


def test_what_is_not_finite_stays_in_its_row(compiled, dtype, seeded):
    x, weight = torch.randn(3, 64, generator=seeded).to(dtype), torch.randn(32, 64, generator=seeded).to(dtype)
    packed = pack_panels(weight)
    clean = float_linear(x, packed)
    x[1, 5] = float("nan")
    dirty = float_linear(x, packed)
    assert dirty[1].isnan().all()
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])
