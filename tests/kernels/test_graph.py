"""Captured calls do at a replay what the code itself would do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import native
from kernels.gated_activation import silu_and_mul
from kernels.gather_rows import gather_rows
from kernels.graph import REPLAY, CaptureError, KernelGraph, Sample, capture
from kernels.rms_norm import add_rms_norm, rms_norm

WIDTH = 64
ROWS = torch.tensor([2, 0, 1])
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


def shuffled_again_and_again(x: Tensor) -> Tensor:
    """[tokens, 64] → [tokens, 32]: an output in the place of an input would show."""
    for _ in range(6):
        x = gather_rows(x, ROWS)
    return silu_and_mul(x)


@pytest.mark.parametrize("num_tokens", [2, 12, 8])
def test_a_replay_gives_the_bits_of_the_code(compiled, num_tokens, seeded):
    graph = captured(two_layers)
    for _ in range(2):
        x = torch.randn(num_tokens, WIDTH, generator=seeded)
        graph.replay((num_tokens, x.data_ptr()))
        assert torch.equal(graph.output[: 2 * num_tokens], two_layers(x))


def test_a_buffer_is_not_given_away_while_it_is_read(compiled, seeded):
    x = torch.randn(3, WIDTH, generator=seeded)
    graph = capture(Sample(lambda: shuffled_again_and_again(x), (1,)), Sample(lambda: shuffled_again_and_again(x), (1,)))
    graph.replay((1,))
    assert torch.equal(graph.output, shuffled_again_and_again(x))


def test_the_calls_behind_one_that_failed_are_not_made(compiled):
    results, made = [0, 1, 0], []

    def answer(_: int) -> int:
        made.append(len(made))
        return results[len(made) - 1]

    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(answer)
    address = ctypes.cast(function, ctypes.c_void_p).value
    calls = np.array([(address, 0)] * 3, dtype=np.int64)
    replay = native.compiled_function("replay")
    assert replay(REPLAY.pack(calls.ctypes.data, 3)) == 1
    assert made == [0, 1]


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
    [lambda x: x + 1, lambda x: x.to(torch.bfloat16), lambda x: x[:, :32].contiguous(), lambda x: torch.nn.functional.silu(x)],
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
