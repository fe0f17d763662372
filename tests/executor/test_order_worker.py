"""The compute thread of a rank that follows: order, failures, and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec
import pytest
import torch
from torch import Tensor

from runtime.errors import EngineError, RankLost
from runtime.executor.order_worker import OrderWorker
from runtime.executor.orders import ComputeHidden, ComputeLogits, Order, to_order
from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import ForwardBatch, KVCache

TIMEOUT_S = 30.0
LIMITS = ExecutorLimits(num_pages=6, page_size=4, num_slots=3, context_length=16, vocab_size=100)
KV = KVCache(keys=[], values=[])
BATCH = ForwardBatch(
    token_ids=torch.tensor([7, 8, 9]),
    positions=torch.tensor([0, 1, 5], dtype=torch.int32),
    query_starts=torch.tensor([0, 2, 3], dtype=torch.int32),
    kv_lengths=torch.tensor([2, 6], dtype=torch.int32),
    page_tables=torch.tensor([[3, 0], [1, 5]], dtype=torch.int32),
    write_slots=torch.tensor([12, 13, 21], dtype=torch.int32),
    logit_rows=torch.tensor([1, 2]),
)


@dataclass
class Spec:
    hidden_size: int = 4


class Bench:
    """A worker, with a decoder and a group that write down what they are asked."""

    rank, size = 1, 2
    dtype = torch.bfloat16
    spec = Spec()

    def __init__(self) -> None:
        self.log: list[str] = []
        self.hooks: list[Callable[[], object]] = []
        self.failures: asyncio.Queue[EngineError] = asyncio.Queue()
        self.post_threads: set[threading.Thread] = set()
        self.worker = OrderWorker(self, KV, LIMITS, self, num_threads=1)  # type: ignore[arg-type]

    def hidden_states(self, batch: ForwardBatch, kv: KVCache) -> None:
        assert kv is KV
        assert torch.is_inference_mode_enabled()
        self._note(f"hidden {batch.token_ids.tolist()}")

    def broadcast(self, x: Tensor) -> None:
        assert x.dtype == torch.bfloat16
        x.fill_(1.5)

    def logits(self, hidden: Tensor) -> None:
        self._note(f"logits {hidden.tolist()}")

    def _note(self, text: str) -> None:
        if self.hooks:
            self.hooks.pop(0)()
        self.log.append(text)

    def raise_next(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        self.hooks.append(fail)

    def post(self, failure: EngineError) -> None:
        self.post_threads.add(threading.current_thread())
        self.failures.put_nowait(failure)

    async def failure(self) -> EngineError:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.failures.get()

    def submit_and_wait(self, *orders: Order) -> None:
        """Until the last of them begins."""
        begun = threading.Event()
        self.hooks += [lambda: None] * (len(orders) - 1) + [begun.set]
        for order in orders:
            self.worker.submit(order)
        assert begun.wait(TIMEOUT_S)


def bench_test(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        bench = Bench()
        bench.worker.start(bench.post)
        try:
            await test(bench)
        finally:
            bench.worker.stop()

    def run_test() -> None:
        asyncio.run(run())

    run_test.__name__ = test.__name__  # type: ignore[attr-defined]
    return run_test


def of(token_id: int) -> ComputeHidden:
    return to_order(replace(BATCH, token_ids=torch.full((3,), token_id)))


@bench_test
async def test_orders_are_computed_as_they_come(bench: Bench) -> None:
    bench.submit_and_wait(of(1), ComputeLogits(num_rows=2), of(2))
    bench.worker.stop()
    assert bench.log == ["hidden [1, 1, 1]", f"logits {[[1.5] * 4] * 2}", "hidden [2, 2, 2]"]
    assert bench.worker.num_finished == 3
    assert bench.failures.empty()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RankLost("rank 0 is gone"), "^rank 0 is gone$"),
        (RuntimeError("no memory"), "rank 1 could not .*RuntimeError: no memory"),
    ],
    ids=repr,
)
def test_a_failure_is_told_on_the_loop_and_nothing_comes_after_it(error: Exception, text: str) -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        bench.raise_next(error)
        bench.worker.submit(of(1))
        bench.worker.submit(of(2))
        with pytest.raises(EngineError, match=text) as raised:
            raise await bench.failure()
        assert isinstance(raised.value, RankLost) == isinstance(error, RankLost)
        bench.worker.stop()
        assert (bench.log, bench.worker.num_finished) == ([], 0)
        assert bench.post_threads == {threading.current_thread()}
        assert bench.failures.empty()

    run()


def test_a_defect_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    escaped: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)

    @bench_test
    async def run(bench: Bench) -> None:
        bench.raise_next(TypeError("defect"))
        bench.worker.submit(of(1))
        assert str(await bench.failure()) == "the worker of this rank died"

    run()
    assert [str(args.exc_value) for args in escaped] == ["defect"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_ids", 100),
        ("token_ids", -1),
        ("positions", 16),
        ("query_starts", 4),
        ("kv_lengths", 9),
        ("page_tables", 6),
        ("page_tables", -1),
        ("write_slots", 24),
        ("logit_rows", 3),
    ],
)
def test_numbers_that_would_reach_into_other_memory_are_refused(
    name: str, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = getattr(BATCH, name).clone()
    wrong.view(-1)[-1] = value

    @bench_test
    async def run(bench: Bench) -> None:
        bench.worker.submit(to_order(replace(BATCH, **{name: wrong})))
        assert f"an order's {name} are not all" in str(await bench.failure())
        assert bench.log == []

    with caplog.at_level(logging.ERROR):
        run()


@bench_test
async def test_sizes_that_do_not_fit_are_refused(bench: Bench) -> None:
    bench.worker.submit(msgspec.structs.replace(of(1), num_tokens=2))
    assert "ValueError: an order's token_ids" in str(await bench.failure())


def test_stop_finishes_the_order_in_hand_and_drops_the_rest() -> None:
    async def run() -> None:
        bench = Bench()
        bench.worker.start(bench.post)
        begun, go_on = threading.Event(), threading.Event()
        bench.hooks.append(lambda: (begun.set(), go_on.wait(TIMEOUT_S)))
        bench.worker.submit(of(1))
        bench.worker.submit(of(2))
        assert begun.wait(TIMEOUT_S)
        thread = bench.worker._worker
        assert thread is not None
        join = thread.join

        def let_it_finish(timeout: float | None = None) -> None:
            go_on.set()
            join(timeout)

        thread.join = let_it_finish  # type: ignore[method-assign]
        bench.worker.stop()
        assert not thread.is_alive()
        bench.worker.stop()
        assert bench.log == ["hidden [1, 1, 1]"]

    asyncio.run(run())


def test_a_failure_for_a_closed_loop_is_dropped() -> None:
    async def start(bench: Bench) -> None:
        bench.worker.start(bench.post)

    bench = Bench()
    asyncio.run(start(bench))
    bench.raise_next(RankLost("gone"))
    bench.worker.submit(of(1))
    bench.worker.stop()
    assert bench.failures.empty()
