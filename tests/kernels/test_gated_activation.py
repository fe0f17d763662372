from __future__ import annotations

import pytest
import torch

from kernels import native
from kernels.gated_activation import gelu_and_mul, reference, silu_and_mul
from kernels.gated_activation.cases import CASES

TOLERANCE = {torch.bfloat16: (2**-7, 1e-5), torch.float32: (1e-5, 2e-6)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", ["silu", "tanh", "none"])
def test_agrees_with_the_reference(compiled, case, activation, dtype, seeded):
    gate_up = (torch.randn(case.num_tokens, 2 * case.intermediate, generator=seeded) * 4).to(dtype)
    if activation == "silu":
        out, expected = silu_and_mul(gate_up), reference.silu_and_mul(gate_up)
    else:
        out, expected = gelu_and_mul(gate_up, activation), reference.gelu_and_mul(gate_up, activation)
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("gate", [-300.0, -100.0, -20.0, 0.0, 20.0, 100.0, 300.0])
def test_extremes_stay_finite_and_right(compiled, gate):
    gate_up = torch.tensor([[gate, 3.0]])
    assert silu_and_mul(gate_up).item() == pytest.approx(max(gate, 0.0) * 3.0, abs=1e-6)
    assert gelu_and_mul(gate_up).item() == pytest.approx(max(gate, 0.0) * 3.0, abs=1e-6)
    assert gelu_and_mul(gate_up, "none").item() == pytest.approx(max(gate, 0.0) * 3.0, abs=1e-5)


def test_takes_rows_of_a_wider_buffer(compiled, dtype, seeded):
    buffer = torch.randn(3, 100, generator=seeded).to(dtype)
    assert torch.equal(silu_and_mul(buffer[:, :60]), silu_and_mul(buffer[:, :60].contiguous()))


def test_a_row_has_the_same_bits_alone_and_on_any_thread(compiled, dtype, seeded):
    gate_up = torch.randn(64, 3072, generator=seeded).to(dtype)
    native.set_num_threads(3)
    together = silu_and_mul(gate_up)
    native.set_num_threads(1)
    assert torch.equal(silu_and_mul(gate_up), together)
    assert torch.equal(silu_and_mul(gate_up[33:34]), together[33:34])
