"""RMS normalisation, rotary embedding and gated activations in Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from kernels.gated_activation import cases as gate_cases
from kernels.gated_activation import reference as gates
from kernels.gated_activation.triton import gelu_and_mul, silu_and_mul
from kernels.rms_norm import cases as norm_cases
from kernels.rms_norm import reference as norms
from kernels.rms_norm import triton as triton_norms
from kernels.rms_norm.triton import add_rms_norm, rms_norm
from kernels.rope import cases as rope_cases
from kernels.rope import reference as ropes
from kernels.rope.triton import rope_and_write
from tests.kernels.test_rope import fused, placement, table

TOLERANCE = {torch.float32: (1e-5, 2e-6), torch.float16: (2**-10, 1e-6), torch.bfloat16: (2**-7, 1e-6)}
SMALL_NORMS = [case for case in norm_cases.CASES if case.num_tokens < 40]
SMALL_ROPES = [case for case in rope_cases.CASES if case.num_tokens < 10]
NO_NORMS = {"q_norm": None, "k_norm": None, "eps": 0.0}


def assert_near(actual: torch.Tensor, expected: torch.Tensor, least_atol: float = 0.0) -> None:
    rtol, atol = TOLERANCE[actual.dtype]
    atol = max(atol, least_atol)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


@pytest.fixture
def draw(triton_device, triton_dtype, seeded):
    """Normal numbers of a shape."""
    return lambda *shape: torch.randn(shape, generator=seeded).to(triton_device, triton_dtype)


# ---------------------------------------------------------------------------------------------------------------------
# RMS normalisation


@pytest.mark.parametrize("case", SMALL_NORMS)
@pytest.mark.parametrize("weight_dtype", [torch.float32, None], ids=["weight-fp32", "weight-same"])
def test_norm_agrees_with_the_reference(case, weight_dtype, draw):
    x, residual, weight = draw(*case), draw(*case), draw(case.hidden).to(weight_dtype)
    assert_near(rms_norm(x, weight, 1e-5), norms.rms_norm(x, weight, 1e-5))
    summed = residual.clone()
    expected = norms.add_rms_norm(x, summed, weight, 1e-5)
    assert_near(add_rms_norm(x, residual, weight, 1e-5), expected)
    assert torch.equal(residual, summed)


def test_a_row_wider_than_a_tile_goes_through_in_several(draw, monkeypatch):
    monkeypatch.setattr(triton_norms, "MAX_BLOCK", 64)
    x, residual, weight = draw(3, 200), draw(3, 200), draw(200)
    assert_near(rms_norm(x, weight, 1e-5), norms.rms_norm(x, weight, 1e-5))
    summed = residual.clone()
    expected = norms.add_rms_norm(x, summed, weight, 1e-5)
    assert_near(add_rms_norm(x, residual, weight, 1e-5), expected)
    assert torch.equal(residual, summed)


def test_norm_takes_rows_and_heads_of_a_wider_buffer(draw):
    buffer, weight = draw(5, 15, 24), draw(24)
    assert torch.equal(
        rms_norm(buffer[:, 3:12], weight, 1e-5), rms_norm(buffer[:, 3:12].reshape(-1, 24), weight, 1e-5).view(5, 9, 24)
    )
    rows, residual, wide = draw(5, 200), draw(5, 100), draw(64)
    before = residual.clone()
    expected = add_rms_norm(rows[:, 7:71].contiguous(), residual[:, :64].clone(), wide, 1e-5)
    assert torch.equal(add_rms_norm(rows[:, 7:71], residual[:, :64], wide, 1e-5), expected)
    assert torch.equal(residual[:, 64:], before[:, 64:])


def test_a_normed_row_has_the_same_bits_alone(draw):
    x, residual, weight = draw(9, 576), draw(9, 576), draw(576)
    alone = add_rms_norm(x[4:5], residual[4:5].clone(), weight, 1e-5)
    assert torch.equal(rms_norm(x[4:5], weight, 1e-5), rms_norm(x, weight, 1e-5)[4:5])
    assert torch.equal(alone, add_rms_norm(x, residual, weight, 1e-5)[4:5])


# ---------------------------------------------------------------------------------------------------------------------
# Rotary embedding


def rope_inputs(case, dtype, device, generator):
    q, k, v = (part.to(device) for part in fused(case, dtype, generator))
    keys, values, positions, slots = (tensor.to(device) for tensor in placement(case, dtype, generator))
    return q, k, v, table(case.rotary_dim).to(device), positions, keys, values, slots


def norm_weights(head_dim, device, generator):
    weights = torch.rand(2, head_dim, generator=generator).to(device)
    return {"q_norm": weights[0], "k_norm": weights[1], "eps": 1e-5}


@pytest.mark.parametrize("case", SMALL_ROPES)
@pytest.mark.parametrize("has_norms", [False, True], ids=["plain", "normed"])
def test_rope_agrees_with_the_reference(case, has_norms, triton_dtype, triton_device, seeded):
    q, k, v, cos_sin, positions, keys, values, slots = rope_inputs(case, triton_dtype, triton_device, seeded)
    options = norm_weights(case.head_dim, triton_device, seeded) if has_norms else NO_NORMS
    slots[case.num_tokens // 2] = -1
    expected_q, expected_keys, expected_values, given = q.clone(), keys.clone(), values.clone(), (k.clone(), v.clone())
    at = (cos_sin, positions, expected_keys, expected_values, slots)
    ropes.rope_and_write(expected_q, k, v, *at, interleaved=case.interleaved, **options)
    turned = rope_and_write(q, k, v, cos_sin, positions, keys, values, slots, interleaved=case.interleaved, **options)
    assert_near(turned, expected_q)
    assert_near(keys, expected_keys)
    assert torch.equal(values, expected_values)
    assert torch.equal(k, given[0])
    assert torch.equal(v, given[1])


def test_rope_without_tokens(triton_device, seeded):
    inputs = rope_inputs(rope_cases.Case(0, 4, 2, 64, 64, 16), torch.float32, triton_device, seeded)
    assert rope_and_write(*inputs, interleaved=False, **NO_NORMS).shape == (0, 4, 64)


def test_a_turned_token_has_the_same_bits_alone(triton_dtype, triton_device, seeded):
    case = rope_cases.Case(9, 9, 3, 64, 32, 16)
    q, k, v, cos_sin, positions, keys, values, slots = rope_inputs(case, triton_dtype, triton_device, seeded)
    options = norm_weights(64, triton_device, seeded) | {"interleaved": False}
    alone, alone_keys = q[4:5].clone(), torch.zeros_like(keys)
    one = slice(4, 5)
    rope_and_write(alone, k[one], v[one], cos_sin, positions[one], alone_keys, values.clone(), slots[one], **options)
    rope_and_write(q, k, v, cos_sin, positions, keys, values, slots, **options)
    assert torch.equal(alone, q[4:5])
    page, offset = int(slots[4]) // 16, int(slots[4]) % 16
    assert torch.equal(alone_keys[page, :, offset], keys[page, :, offset])
    assert alone_keys.count_nonzero() == alone_keys[page, :, offset].count_nonzero()


# ---------------------------------------------------------------------------------------------------------------------
# Gated activations

ACTIVATIONS = {
    "silu": (silu_and_mul, gates.silu_and_mul),
    "tanh": (lambda x: gelu_and_mul(x, "tanh"), lambda x: gates.gelu_and_mul(x, "tanh")),
    "erf": (lambda x: gelu_and_mul(x, "none"), lambda x: gates.gelu_and_mul(x, "none")),
}


@pytest.mark.parametrize("case", gate_cases.CASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gate_agrees_with_the_reference(case, activation, draw):
    gate_up = draw(case.num_tokens, 2 * case.intermediate) * 4
    ours, reference = ACTIVATIONS[activation]
    assert_near(ours(gate_up), reference(gate_up), 1e-5)  # the tail of the error function is a difference


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_gates_stay_finite_and_right(activation, triton_device):
    gate = torch.tensor([-1e4, -300.0, -100.0, -20.0, 0.0, 20.0, 100.0, 300.0, 1e4], device=triton_device)
    gate_up = torch.stack((gate, torch.full_like(gate, 3.0)), dim=1)  # one number and its factor a row
    torch.testing.assert_close(ACTIVATIONS[activation][0](gate_up)[:, 0], gate.clamp(min=0) * 3.0, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gated_row_of_a_wider_buffer_has_the_same_bits_alone(activation, draw):
    buffer = draw(7, 300)
    ours, _ = ACTIVATIONS[activation]
    assert torch.equal(ours(buffer[3:4, :260].contiguous()), ours(buffer[:, :260])[3:4])


# ---------------------------------------------------------------------------------------------------------------------
# Machine code


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    seeded, dtype = torch.Generator().manual_seed(7), torch.bfloat16
    for hidden in (100, 20000):
        x, weight = torch.zeros(2, hidden, dtype=dtype), torch.zeros(hidden)
        yield f"norm of {hidden}", lambda x=x, weight=weight: rms_norm(x, weight, 1e-5)
        yield f"fused norm of {hidden}", lambda x=x, weight=weight: add_rms_norm(x, x.clone(), weight, 1e-5)
    for case in SMALL_ROPES[1:4]:
        inputs = rope_inputs(case, dtype, "cpu", seeded)
        for options in (NO_NORMS, norm_weights(case.head_dim, "cpu", seeded)):
            turn = options | {"interleaved": case.interleaved}
            yield f"{case}", lambda inputs=inputs, turn=turn: rope_and_write(*inputs, **turn)
    for name, (ours, _) in ACTIVATIONS.items():
        yield name, lambda ours=ours: ours(torch.zeros(2, 200, dtype=dtype))


def test_compiles_for_hopper(compiled_for_hopper):
    assert {report["kernel"] for report in compiled_for_hopper(__name__)} == {"_rms_norm", "_rope_and_write", "_gate"}
