from __future__ import annotations

import gguf
import pytest
import torch

from kernels import native
from kernels.argmax import argmax
from kernels.quantized_linear import (
    GGUF_TYPES,
    pack,
    packed_rows,
    quantize,
    quantized_linear,
    quantized_linear_argmax,
    reference,
    unpack_rows,
)
from kernels.quantized_linear.cases import CASES

RELATIVE_ERROR = 1e-5


def raw_blocks(gguf_type: str, num_outputs: int, num_inputs: int, generator: torch.Generator) -> torch.Tensor:
    """Random GGUF blocks with sane scales: [outputs, bytes]."""
    num_blocks = num_inputs // 32
    block_bytes, _ = GGUF_TYPES[gguf_type]
    raw = torch.randint(0, 256, (num_outputs, num_blocks, block_bytes), generator=generator).to(torch.uint8)
    for at in range(0, block_bytes - (32 if gguf_type == "Q8_0" else 16), 2):
        values = (torch.rand(num_outputs, num_blocks, 1, generator=generator) - 0.5) / 16
        raw[..., at : at + 2] = values.half().view(torch.uint8)
    return raw.flatten(1)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-9)).item()


@pytest.fixture(params=GGUF_TYPES)
def gguf_type(request):
    return request.param


@pytest.fixture(params=[8, 16], ids=["8 bits", "16 bits"])
def bits(request):
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(compiled, case, gguf_type, dtype, bits, seeded):
    packed = pack(raw_blocks(gguf_type, case.num_outputs, case.num_inputs, seeded), gguf_type, *case[2:0:-1])
    x = torch.randn(case.num_rows, case.num_inputs, generator=seeded).to(dtype)
    bias = torch.randn(case.num_outputs, generator=seeded) if case.bias else None
    expected = reference.quantized_linear(x, packed, bias, torch.float32, bits)
    assert relative_error(quantized_linear(x, packed, bias, torch.float32, activation_bits=bits), expected) < RELATIVE_ERROR
    out = quantized_linear(x, packed, bias, activation_bits=bits)
    assert out.dtype == dtype
    assert out.shape == (case.num_rows, case.num_outputs)
    assert relative_error(out, expected) < (4e-3 if dtype is torch.bfloat16 else RELATIVE_ERROR)


def test_a_row_has_the_same_bits_in_any_batch_and_on_any_thread(compiled, gguf_type, dtype, bits, seeded):
    packed = pack(raw_blocks(gguf_type, 144, 576, seeded), gguf_type, 144, 576)
    x = torch.randn(140, 576, generator=seeded).to(dtype)
    native.set_num_threads(3)
    together = quantized_linear(x, packed, activation_bits=bits)
    native.set_num_threads(1)
    for first, last in ((0, 140), (0, 1), (5, 7), (9, 12), (20, 27), (40, 73), (139, 140)):
        assert torch.equal(quantized_linear(x[first:last], packed, activation_bits=bits), together[first:last])


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_finds_the_largest_output_without_storing_any(compiled, case, gguf_type, dtype, bits, num_threads, seeded):
    packed = pack(raw_blocks(gguf_type, case.num_outputs, case.num_inputs, seeded), gguf_type, *case[2:0:-1])
    x = torch.randn(case.num_rows, case.num_inputs, generator=seeded).to(dtype)
    bias = torch.randn(case.num_outputs, generator=seeded) if case.bias else None
    x[3::5] = 0.0  # all outputs are equal, or the bias
    x[4::5, -1] = float("nan")
    native.set_num_threads(num_threads)
    expected = argmax(quantized_linear(x, packed, bias, torch.float32, activation_bits=bits))
    assert torch.equal(quantized_linear_argmax(x, packed, bias, activation_bits=bits), expected)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 41])
def test_the_first_outputs_may_take_eight_bits(compiled, gguf_type, num_rows, seeded):
    packed = pack(raw_blocks(gguf_type, 75, 96, seeded), gguf_type, 75, 96)
    x, bias = torch.randn(num_rows, 96, generator=seeded), torch.randn(75, generator=seeded)
    out = quantized_linear(x, packed, bias, activation_bits=16, num_narrow=48)
    assert torch.equal(out[:, :48], quantized_linear(x, packed, bias, activation_bits=8)[:, :48])
    assert torch.equal(out[:, 48:], quantized_linear(x, packed, bias, activation_bits=16)[:, 48:])
    expected = reference.quantized_linear(x, packed, bias, torch.float32, 16, 48)
    assert relative_error(out, expected) < RELATIVE_ERROR


def test_rows_are_those_of_the_reference(compiled, gguf_type, dtype, seeded):
    packed = pack(raw_blocks(gguf_type, 37, 96, seeded), gguf_type, 37, 96)
    for rows in ([36, 0, 5, 5, 16], [17], [], list(range(37))):
        ids = torch.tensor(rows, dtype=torch.int64)
        expected = unpack_rows(packed, ids)
        actual = packed_rows(packed, ids, dtype)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected.to(dtype), rtol=1e-6 if dtype is torch.float32 else 8e-3, atol=1e-6)


def test_packing_loses_nothing_of_gguf(gguf_type, seeded):
    raw = raw_blocks(gguf_type, 37, 96, seeded)
    expected = torch.from_numpy(gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[gguf_type]))
    rows = torch.tensor([36, 0, 5, 5, 16])
    torch.testing.assert_close(unpack_rows(pack(raw, gguf_type, 37, 96), rows), expected[rows], rtol=0, atol=1e-6)


def test_sixteen_bits_are_as_good_as_none(compiled, gguf_type, seeded):
    packed = pack(raw_blocks(gguf_type, 48, 576, seeded), gguf_type, 48, 576)
    x = torch.randn(9, 576, generator=seeded)
    exact = x.double() @ unpack_rows(packed, torch.arange(48)).double().T
    assert relative_error(quantized_linear(x, packed, activation_bits=16), exact) < 5e-5
    assert relative_error(quantized_linear(x, packed, activation_bits=8), exact) > 1e-3


def test_extreme_quants_are_exact(compiled, bits, seeded):
    """The largest and the smallest weights against the largest activations: sums that 16 bits would not hold."""
    for weight_bits, fill in ((8, 1.0), (8, -1.0), (4, 1.0), (4, -1.0)):
        weight = torch.full((16, 64), fill)
        weight[:, 0] = -fill
        x = torch.full((2, 64), 127 / 32)  # times 32, or 32 * 256, the largest integer
        packed = quantize(weight, weight_bits)
        out = quantized_linear(x, packed, activation_bits=bits)
        expected = reference.quantized_linear(x, packed, None, torch.float32, bits)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(out, x @ unpack_rows(packed, torch.arange(16)).T, rtol=2e-4, atol=1e-4)


def test_zero_rows_and_zero_weights_give_the_bias(compiled, seeded):
    packed = quantize(torch.zeros(20, 64))
    bias = torch.randn(20, generator=seeded)
    assert torch.equal(quantized_linear(torch.zeros(2, 64), packed, bias), bias.expand(2, 20))


def test_takes_rows_of_a_wider_buffer(compiled, dtype, seeded):
    packed = quantize(torch.randn(48, 64, generator=seeded))
    buffer = torch.randn(5, 100, generator=seeded).to(dtype)
    assert torch.equal(quantized_linear(buffer[:, :64], packed), quantized_linear(buffer[:, :64].contiguous(), packed))


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.09)])
def test_quantize_keeps_a_plain_weight_to_its_bits(bits, error, seeded):
    weight = torch.randn(40, 128, generator=seeded)
    packed = quantize(weight, bits)
    assert relative_error(unpack_rows(packed, torch.arange(40)), weight) < error
    assert packed.size_bytes < 48 * 128 * (bits + 1.01) / 8


def test_scales_below_the_normal_range_of_float16(compiled):
    weight = torch.full((16, 32), 1e-5)
    out = quantized_linear(torch.ones(1, 32), quantize(weight))
    torch.testing.assert_close(out, torch.full((1, 16), 32e-5), rtol=0.3, atol=0)
    assert torch.equal(out, reference.quantized_linear(torch.ones(1, 32), quantize(weight), None, torch.float32))


def test_eight_bits_cost_less_than_one_percent(compiled, gguf_type, seeded):
    packed = pack(raw_blocks(gguf_type, 48, 576, seeded), gguf_type, 48, 576)
    x = torch.randn(9, 576, generator=seeded)
    exact = x.double() @ unpack_rows(packed, torch.arange(48)).double().T
    assert relative_error(quantized_linear(x, packed), exact) < 0.01


@pytest.mark.parametrize("magnitude", [1e-25, 1e-6, 1.0, 1e25])
def test_activations_of_any_magnitude(compiled, gguf_type, bits, magnitude, seeded):
    packed = pack(raw_blocks(gguf_type, 32, 96, seeded), gguf_type, 32, 96)
    x = torch.randn(5, 96, generator=seeded) * magnitude
    x[1] = 0.0
    x[2, :32] *= 1e-9
    out = quantized_linear(x, packed, activation_bits=bits)
    expected = reference.quantized_linear(x, packed, None, torch.float32, bits)
    assert relative_error(out / magnitude, expected / magnitude) < RELATIVE_ERROR
    assert not out[1].any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_activation_breaks_its_row_and_no_other(compiled, gguf_type, bits, dtype, broken, seeded):
    packed = pack(raw_blocks(gguf_type, 32, 96, seeded), gguf_type, 32, 96)
    x = torch.randn(6, 96, generator=seeded).to(dtype)
    expected = quantized_linear(x, packed, activation_bits=bits)
    x[3, 40] = broken
    out = quantized_linear(x, packed, activation_bits=bits)
    assert out[3].isnan().all()
    rest = [0, 1, 2, 4, 5]
    assert torch.equal(out[rest], expected[rest])


@pytest.mark.parametrize(
    ("gguf_type", "num_outputs", "num_inputs", "message"),
    [("Q6_K", 16, 32, "choose one of Q4_0"), ("Q4_0", 16, 33, "blocks"), ("Q4_0", 17, 32, "bytes are not")],
)
def test_what_cannot_be_packed_is_refused(gguf_type, num_outputs, num_inputs, message):
    with pytest.raises(ValueError, match=message):
        pack(torch.zeros(16 * 18, dtype=torch.uint8), gguf_type, num_outputs, num_inputs)
    with pytest.raises(ValueError, match="cannot quantize"):
        quantize(torch.zeros(4, 33))
