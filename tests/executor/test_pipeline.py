"""The pipeline between launcher and completer: order, bound, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from runtime.executor.pipeline import Pipeline

TIMEOUT_S = 30.0


class Waiter:
    """Calls `function` on a thread of its own, and tells when it has begun to wait."""

    def __init__(self, pipeline: Pipeline[int], function: Callable[[], object]) -> None:
        self._waits = threading.Event()
        wait_for = pipeline._changed.wait_for

        def told(predicate: Callable[[], bool]) -> bool:
            if not predicate():
                self._waits.set()
            return wait_for(predicate)

        pipeline._changed.wait_for = told  # type: ignore[method-assign]
        self._pool = ThreadPoolExecutor(1)
        self.result: Future[object] = self._pool.submit(function)
        assert self._waits.wait(TIMEOUT_S), "it does not wait"

    def done(self) -> object:
        found = self.result.result(TIMEOUT_S)
        self._pool.shutdown()
        return found


def filled(num_steps: int) -> Pipeline[int]:
    pipeline: Pipeline[int] = Pipeline(2)
    for step in range(num_steps):
        assert pipeline.admit()
        pipeline.put(step)
    return pipeline


def test_steps_come_out_in_order() -> None:
    pipeline = filled(2)
    assert (pipeline.take(), pipeline.take()) == (0, 1)


def test_a_third_step_waits_until_the_first_is_complete_not_only_taken() -> None:
    pipeline = filled(2)
    waiter = Waiter(pipeline, pipeline.admit)
    pipeline.take()
    assert not waiter.result.done()
    pipeline.retire()
    assert waiter.done() is True


def test_settling_waits_for_all() -> None:
    pipeline = filled(2)
    waiter = Waiter(pipeline, pipeline.settle)
    for _ in range(2):
        assert not waiter.result.done()
        pipeline.take()
        pipeline.retire()
    assert waiter.done() is True
    assert pipeline.settle() is True


def test_whoever_takes_waits_for_a_step() -> None:
    pipeline = filled(0)
    waiter = Waiter(pipeline, pipeline.take)
    pipeline.put(7)
    assert waiter.done() == 7


def test_a_closed_pipeline_is_emptied_first() -> None:
    pipeline = filled(1)
    pipeline.close()
    assert (pipeline.take(), pipeline.take()) == (0, None)


@pytest.mark.parametrize("name", ["admit", "settle"])
def test_nobody_waits_for_a_completer_that_has_died(name: str) -> None:
    pipeline = filled(2)
    waiter = Waiter(pipeline, {"admit": pipeline.admit, "settle": pipeline.settle}[name])
    pipeline.close()
    assert waiter.done() is False
