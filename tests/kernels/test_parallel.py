"""The helper threads: every item once, whoever calls, however many threads there are."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from kernels import native
from kernels.gated_activation import silu_and_mul
from kernels.paged_attention import paged_attention


def batch(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    q, pages = torch.randn(24, 6, 32, generator=generator), torch.randn(2, 24, 2, 32, 32, generator=generator)
    tables = torch.arange(24, dtype=torch.int32)[:, None]
    return q, pages[0], pages[1], torch.arange(25, dtype=torch.int32), torch.full((24,), 32, dtype=torch.int32), tables


@pytest.mark.parametrize("num_threads", [0, 1, 2, 9])
def test_every_item_is_done_once(compiled, num_threads, seeded):
    gate_up = torch.randn(321, 512, generator=seeded)  # 32 rows to a task: the last one has a single row
    expected = silu_and_mul(gate_up)
    native.set_num_threads(num_threads)
    kept = [silu_and_mul(gate_up) for _ in range(20)]  # all alive at once, so that none lies where another was right
    assert all(torch.equal(out, expected) for out in kept)


def test_callers_from_several_threads_do_not_meet(compiled, seeded):
    inputs = batch(seeded)
    expected = paged_attention(*inputs, 0.2)
    native.set_num_threads(3)
    results = []

    def call() -> None:
        results.extend(torch.equal(paged_attention(*inputs, 0.2), expected) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 200


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_works_with_helpers_of_its_own(compiled, seeded):
    gate_up = torch.randn(300, 256, generator=seeded)
    native.set_num_threads(3)
    expected = silu_and_mul(gate_up)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(torch.equal(silu_and_mul(gate_up), expected) for _ in range(20)) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
