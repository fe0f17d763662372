"""Captured calls do at a replay what the code itself would do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels import native
from kernels.gated_activation import silu_and_mul
from kernels.graph import CaptureError, KernelGraph, Sample, capture
from kernels.rms_norm import add_rms_norm, rms_norm

WIDTH = 64
WEIGHT = torch.linspace(0.5, 1.5, WIDTH)


def two_layers(x: Tensor) -> Tensor:
    """[tokens, 64] → [2 * tokens, 16], with a residual that is written in place and buffers that come and go."""
    residual = rms_norm(x, WEIGHT, 1e-5)
    hidden = residual
    for _ in range(2):
        hidden = add_rms_norm(hidden, residual, WEIGHT, 1e-5)
        hidden = rms_norm(hidden, WEIGHT, 1e-5)
    return silu_and_mul(hidden.view(-1, WIDTH // 2))


def sample(code: Callable[[Tensor], Tensor], num_tokens: int) -> Sample:
    x = torch.empty(num_tokens, WIDTH)
    return Sample(lambda: code(x), (num_tokens, x.data_ptr()))


def captured(code: Callable[[Tensor], Tensor]) -> KernelGraph:
    return capture(sample(code, 12), sample(code, 4))


@pytest.mark.parametrize("num_tokens", [2, 12, 8])
def test_a_replay_gives_the_bits_of_the_code(compiled, num_tokens, seeded):
    graph = captured(two_layers)
    for _ in range(2):
        x = torch.randn(num_tokens, WIDTH, generator=seeded)
        graph.replay((num_tokens, x.data_ptr()))
        assert torch.equal(graph.output[: 2 * num_tokens], two_layers(x))


def test_no_rows_do_nothing(compiled):
    captured(two_layers).replay((0, 0))


def test_nothing_is_computed_while_it_is_captured(compiled):
    x = torch.ones(2, 2 * WIDTH)
    with native.recording() as calls:
        silu_and_mul(x)
    assert [name for name, _ in calls] == ["gated_activation"]
    assert silu_and_mul(x)[0, 0] == pytest.approx(0.7310586)


def test_buffers_are_used_again(compiled):
    """A chain needs two buffers, however long it is."""

    def chain(length: int) -> Callable[[Tensor], Tensor]:
        def code(x: Tensor) -> Tensor:
            for _ in range(length):
                x = rms_norm(x, WEIGHT, 1e-5)
            return x

        return code

    assert captured(chain(2)).num_bytes == captured(chain(9)).num_bytes == 2 * 12 * WIDTH * 4


@pytest.mark.parametrize(
    "computation",
    [lambda x: x + 1, lambda x: x.to(torch.bfloat16), lambda x: x.t().contiguous(), lambda x: torch.nn.functional.silu(x)],
)
def test_what_torch_computes_can_not_be_captured(compiled, computation):
    with pytest.raises(CaptureError, match="torch"):
        captured(lambda x: rms_norm(computation(x), WEIGHT, 1e-5))


def test_code_whose_calls_depend_on_the_sizes_can_not_be_captured(compiled):
    with pytest.raises(CaptureError, match="depend on the sizes"):
        captured(lambda x: rms_norm(x, WEIGHT, 1e-5) if len(x) > 5 else rms_norm(rms_norm(x, WEIGHT, 1e-5), WEIGHT, 1e-5))


def test_a_field_that_follows_no_parameter_can_not_be_captured(compiled):
    with pytest.raises(CaptureError, match="follows 0 parameters"):
        captured(lambda x: rms_norm(x[: len(x) - 1], WEIGHT, 1e-5))
