from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernels import invariant_linear as operation
from kernels.invariant_linear import reference, triton
from kernels.invariant_linear.cases import CASES
from kernels.invariant_linear.triton import FULL, HALF, slices_of

TOLERANCE = {torch.bfloat16: (2**-7, 2e-2), torch.float16: (2**-10, 1e-2), torch.float32: (1e-5, 1e-4)}


@pytest.fixture
def draw(triton_device, triton_dtype, seeded):
    """Draws a matrix, or a vector."""
    return lambda *shape: torch.randn(shape, generator=seeded).to(triton_device, triton_dtype)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, draw):
    x, weight = draw(case.num_rows, case.num_inputs), draw(case.num_outputs, case.num_inputs)
    bias = draw(case.num_outputs) if case.has_bias else None
    rtol, atol = TOLERANCE[x.dtype]
    expected = reference.invariant_linear(x, weight, bias)
    torch.testing.assert_close(triton.invariant_linear(x, weight, bias), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("num_inputs", [100, 1100])
def test_a_row_has_the_same_bits_alone_and_among_others(num_inputs, draw):
    x, weight = draw(150, num_inputs), draw(40, num_inputs)
    together = triton.invariant_linear(x, weight)
    for row in (0, 77, 149):
        assert torch.equal(triton.invariant_linear(x[row : row + 1], weight), together[row : row + 1])


@pytest.mark.parametrize("has_bias", [False, True])
def test_slices_of_one_program_and_of_many_have_the_same_bits(has_bias, draw, monkeypatch):
    x, weight, bias = draw(5, 2100), draw(40, 2100), draw(40) if has_bias else None
    apart = triton.invariant_linear(x, weight, bias)
    monkeypatch.setattr(triton, "slices_of", lambda *_: 4)
    monkeypatch.setattr(triton, "TARGET_PROGRAMS", 1)
    assert torch.equal(triton.invariant_linear(x, weight, bias), apart)


@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "expected"),
    [(6144, 4096, 2), (4096, 4096, 4), (28672, 4096, 1), (4096, 14336, 4), (128256, 4096, 1), (64, 1023, 1), (64, 10**6, 8)],
)
def test_weights_with_few_outputs_are_cut_in_slices(num_outputs, num_inputs, expected):
    assert slices_of(num_outputs, num_inputs, HALF) == expected


@pytest.mark.parametrize("tiling", [HALF, FULL])
def test_no_slice_is_empty(tiling):
    for num_inputs in range(1, 9000, 7):
        num_slices, num_steps = slices_of(64, num_inputs, tiling), -(-num_inputs // tiling.inputs)
        assert (num_slices - 1) * -(-num_steps // num_slices) < num_steps


def test_takes_rows_of_a_wider_buffer(draw):
    x, weight = draw(5, 100)[:, 7:40], draw(40, 33)
    assert torch.equal(triton.invariant_linear(x, weight), triton.invariant_linear(x.contiguous(), weight))


def test_what_is_not_finite_stays_in_its_row(draw):
    x, weight = draw(3, 64), draw(32, 64)
    clean = triton.invariant_linear(x, weight)
    x[1, 5] = float("nan")
    dirty = triton.invariant_linear(x, weight)
    assert dirty[1].isnan().all()
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])


def test_a_cpu_tensor_goes_to_the_reference(seeded):
    x, weight = torch.randn(2, 100, generator=seeded), torch.randn(3, 100, generator=seeded)
    assert torch.equal(operation.invariant_linear(x, weight), reference.invariant_linear(x, weight))


def launches():
    """A weight in slices and one that fits no tile, for one row and for many."""
    shapes = ((1, 4096, 4096), (3000, 4096, 4096), (1, 200, 577))
    for dtype, (num_rows, num_outputs, num_inputs) in (
        *((torch.bfloat16, shape) for shape in shapes),
        (torch.float32, shapes[0]),
    ):
        x, weight = torch.empty(num_rows, num_inputs, dtype=dtype), torch.empty(num_outputs, num_inputs, dtype=dtype)
        bias = torch.empty(num_outputs, dtype=dtype)
        yield f"{dtype} {num_rows} {num_outputs}", lambda x=x, w=weight, b=bias: triton.invariant_linear(x, w, b)


def test_compiles_for_hopper(compiled_for_hopper):
    assert len(compiled_for_hopper(__name__)) == 6
