"""The two threads of the CUDA executor, over a device that is the CPU: order, overlap, failures, reset and stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from runtime.clock import SystemClock
from runtime.errors import DeviceLost, EngineError
from runtime.executor.cuda import CudaExecutor
from runtime.executor.device_runner import DeviceRunner
from runtime.messages import INVALID_TOKEN, SlotOpen, StepDone, StepFailed, StepPlan
from runtime.params import SamplingParams
from tests.executor.fake_port import DeviceBroke, FakePort
from tests.executor.toy_model import LIMITS, PROMPT, ToyModel, first_plan, make_kv, opened, row
from tests.fakes.executor import expected_output, next_token

TIMEOUT_S = 30.0
Result = StepDone | StepFailed
OUTPUT = expected_output(PROMPT, 8, LIMITS.vocab_size)


class Bench:
    """An executor with a toy model, and the results it has posted."""

    def __init__(self, buckets: tuple[int, ...] = ()) -> None:
        self.port = FakePort()
        self.model = ToyModel()
        self.kv = make_kv(num_scratch_pages=1)
        runner = DeviceRunner(self.model, self.kv, LIMITS, self.port, SystemClock(), buckets=buckets)
        self.executor = CudaExecutor(runner, LIMITS, self.port)
        self.results: asyncio.Queue[Result] = asyncio.Queue()
        self.post_threads: set[threading.Thread] = set()

    def start(self) -> None:
        self.executor.start(self.post)

    def post(self, result: Result) -> None:
        self.post_threads.add(threading.current_thread())
        self.results.put_nowait(result)

    async def result(self) -> Result:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.results.get()

    async def run(self, plan: StepPlan) -> Result:
        self.executor.submit(plan)
        return await self.result()

    async def tokens(self, plan: StepPlan) -> tuple[int, ...]:
        result = await self.run(plan)
        assert isinstance(result, StepDone), result
        return result.token_ids

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The device passes no mark until the end of this block."""
        self.port.gate.clear()
        try:
            yield
        finally:
            self.port.gate.set()

    async def launched(self, num_steps: int) -> None:
        """Wait until so many forward passes have begun."""
        begun = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self.model.hooks += [lambda: None] * (num_steps - 1) + [lambda: loop.call_soon_threadsafe(begun.set_result, None)]
        async with asyncio.timeout(TIMEOUT_S):
            await begun

    def raise_next(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        self.model.hooks.append(fail)


def bench_test(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    """Run `test` on a loop with a started bench, and stop the executor after it."""

    async def run() -> None:
        bench = Bench()
        bench.start()
        try:
            await test(bench)
        finally:
            bench.port.gate.set()
            bench.executor.stop()

    def run_test() -> None:
        asyncio.run(run())

    run_test.__name__ = test.__name__  # type: ignore[attr-defined]
    return run_test


def decode(step_id: int) -> StepPlan:
    """The token at position `step_id` + 5 of the slot that `first_plan(0)` opened."""
    return StepPlan(step_id=step_id, rows=(row(0, step_id + 5, 1),))


@bench_test
async def test_a_sequence_in_chunks_and_steps(bench: Bench) -> None:
    chunk = StepPlan(step_id=0, opens=(opened(2, (5, 0)),), rows=(row(2, 0, 4, sample=False),))
    assert await bench.tokens(chunk) == ()
    output = list(await bench.tokens(StepPlan(step_id=1, rows=(row(2, 4, 2),))))
    for position in range(6, 11):
        new_pages = (7,) if position == 8 else ()
        output += await bench.tokens(StepPlan(step_id=position, rows=(row(2, position, 1, new_pages),)))
    assert output == OUTPUT[:6]


@bench_test
async def test_launched_on_one_thread_posted_on_the_loop(bench: Bench) -> None:
    for step_id in range(3):
        await bench.run(first_plan(step_id))
    assert bench.post_threads == {threading.current_thread()}
    assert len(bench.model.threads) == 1
    assert bench.port.launchers == bench.model.threads
    assert threading.current_thread() not in bench.model.threads


@bench_test
async def test_a_step_is_launched_while_the_one_before_computes_and_the_third_waits(bench: Bench) -> None:
    with bench.computing():
        two_begun = asyncio.create_task(bench.launched(2))
        await asyncio.sleep(0)
        for plan in (first_plan(0), decode(1), decode(2)):
            bench.executor.submit(plan)
        await two_begun
        assert bench.results.empty(), "the device has not passed any step"
        third_begun = threading.Event()
        bench.model.hooks.append(third_begun.set)
        assert not third_begun.is_set()
        assert bench.model.num_calls == 2
    results = [await bench.result() for _ in range(3)]
    assert [result.step_id for result in results] == [0, 1, 2]
    assert [result.token_ids for result in results if isinstance(result, StepDone)] == [(t,) for t in OUTPUT[:3]]
    assert third_begun.is_set()


@bench_test
async def test_a_plan_without_rows_is_answered(bench: Bench) -> None:
    await bench.run(first_plan(0))
    assert await bench.tokens(StepPlan(step_id=1, closes=(0,), rows=())) == ()
    assert bench.model.num_calls == 1
    assert await bench.tokens(first_plan(2, pages=(8, 9))) == (OUTPUT[0],)


@bench_test
async def test_results_come_in_the_order_of_sampled_rows(bench: Bench) -> None:
    other = (40, 41, 42)
    opens = (opened(0, (3, 1)), opened(1, (4,), other), opened(2, (5, 6)))
    rows = (row(2, 0, 5, sample=False), row(1, 0, 3), row(0, 0, 6))
    assert await bench.tokens(StepPlan(step_id=0, opens=opens, rows=rows)) == (next_token(other, 500), OUTPUT[0])


@bench_test
async def test_the_rules_of_a_slot_are_those_of_its_last_opening(bench: Bench) -> None:
    params = SamplingParams(temperature=0.0, logit_bias={77: 100.0})
    with bench.computing():
        bench.executor.submit(StepPlan(step_id=0, opens=(opened(0, (3, 1), params=params),), rows=(row(0, 0, 6),)))
        bench.executor.submit(StepPlan(step_id=1, closes=(0,), opens=(opened(0, (8, 9)),), rows=(row(0, 0, 6),)))
    results = [await bench.result() for _ in range(2)]
    assert [result.token_ids for result in results if isinstance(result, StepDone)] == [(77,), (OUTPUT[0],)]


@pytest.mark.parametrize(("min_new_tokens", "is_masked"), [(2, False), (3, True)])
def test_after_a_retraction_earlier_output_still_counts(min_new_tokens: int, is_masked: bool) -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        opening = SlotOpen(
            slot=0,
            token_ids=(*PROMPT, *OUTPUT[:2]),
            num_prompt_tokens=len(PROMPT),
            pages=(3, 1),
            params=SamplingParams(temperature=0.0, min_new_tokens=min_new_tokens),
            masked_token_ids=(OUTPUT[2],),
        )
        (token_id,) = await bench.tokens(StepPlan(step_id=0, opens=(opening,), rows=(row(0, 0, 8),)))
        assert (token_id != OUTPUT[2]) == is_masked

    run()


@bench_test
async def test_logits_that_are_not_finite_end_one_row(bench: Bench) -> None:
    compute = bench.model.hidden_states

    def poisoned(*arguments):  # type: ignore[no-untyped-def]
        logits = compute(*arguments)
        logits[0, 5] = torch.nan
        return logits

    bench.model.hidden_states = poisoned  # type: ignore[method-assign]
    opens = (opened(0, (3, 1)), opened(1, (4, 5)))
    assert await bench.tokens(StepPlan(step_id=0, opens=opens, rows=(row(0, 0, 6), row(1, 0, 6)))) == (INVALID_TOKEN, OUTPUT[0])
    assert await bench.tokens(StepPlan(step_id=1, rows=(row(0, 6, 1), row(1, 6, 1)))) == (INVALID_TOKEN, OUTPUT[1])


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("bad"), MemoryError(), ValueError("bad"), ZeroDivisionError()],
    ids=repr,
)
def test_a_step_that_can_not_be_launched_fails_alone_and_in_its_turn(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        with bench.computing():
            bench.executor.submit(StepPlan(step_id=0, opens=(opened(1, (4, 5)),), rows=(row(1, 0, 6),)))
            bench.model.hooks.append(lambda: None)
            bench.raise_next(error)
            bench.executor.submit(first_plan(1))
        first, failed = await bench.result(), await bench.result()
        assert isinstance(first, StepDone)
        assert isinstance(failed, StepFailed)
        assert (failed.step_id, failed.is_fatal) == (1, False)
        assert type(error).__name__ in failed.reason
        rows = (row(0, 6, 1), row(1, 6, 1))
        assert await bench.tokens(StepPlan(step_id=2, rows=rows)) == (INVALID_TOKEN, OUTPUT[1])
        assert await bench.tokens(StepPlan(step_id=3, closes=(0,), rows=(row(1, 7, 1),))) == (OUTPUT[2],)

    with caplog.at_level(logging.ERROR):
        run()
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


@bench_test
async def test_a_step_that_fails_when_it_is_read_loses_its_sequences_but_not_those_opened_since(bench: Bench) -> None:
    with bench.computing():
        two_begun = asyncio.create_task(bench.launched(2))
        await asyncio.sleep(0)
        bench.executor.submit(
            StepPlan(step_id=0, opens=(opened(0, (3, 1)), opened(1, (4, 5))), rows=(row(0, 0, 6), row(1, 0, 6)))
        )
        bench.executor.submit(StepPlan(step_id=1, closes=(1,), opens=(opened(1, (8, 9)),), rows=(row(1, 0, 6),)))
        await two_begun
        bench.port.errors.append(ValueError("a result that can not be read"))
    failed, done = await bench.result(), await bench.result()
    assert isinstance(failed, StepFailed)
    assert not failed.is_fatal
    assert isinstance(done, StepDone)
    assert await bench.tokens(StepPlan(step_id=2, rows=(row(0, 6, 1), row(1, 6, 1)))) == (INVALID_TOKEN, OUTPUT[1])


@bench_test
async def test_a_plan_that_does_not_fit_is_answered(bench: Bench) -> None:
    result = await bench.run(StepPlan(step_id=9, rows=(row(0, 0, 1),)))
    assert isinstance(result, StepFailed)
    assert "slot 0" in result.reason


@pytest.mark.parametrize("when", ["launched", "read"])
def test_a_lost_device_fails_every_step_and_refuses_to_start_again(when: str) -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        await bench.run(first_plan(0))
        if when == "launched":
            bench.raise_next(DeviceBroke("CUDA error: an illegal memory access was encountered"))
            bench.executor.submit(decode(1))
        else:
            with bench.computing():
                bench.executor.submit(decode(1))
                bench.executor.submit(decode(2))
                bench.port.errors += [DeviceBroke("CUDA error: an illegal memory access was encountered")] * 2
            second = await bench.result()
            assert isinstance(second, StepFailed)
        failed = await bench.result()
        assert isinstance(failed, StepFailed)
        assert (failed.is_fatal, failed.lost) == (True, "device")
        assert "illegal memory access" in failed.reason
        for call in (lambda: bench.executor.submit(decode(3)), bench.start):
            with pytest.raises(DeviceLost) as raised:
                call()
            assert (raised.value.exit_code, raised.value.is_final) == (7, True)
        bench.executor.reset()

    run()


@pytest.mark.parametrize("thread", ["launcher", "completer"])
def test_a_defect_is_fatal_and_a_reset_brings_new_threads(thread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    escaped: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)

    @bench_test
    async def run(bench: Bench) -> None:
        if thread == "launcher":
            bench.raise_next(TypeError("defect"))
        else:
            bench.port.errors.append(TypeError("defect"))
        failed = await bench.run(first_plan(1))
        assert isinstance(failed, StepFailed)
        assert failed.is_fatal
        for worker in bench.executor._threads:
            worker.join(TIMEOUT_S if worker.name == thread else 0)
        with pytest.raises(EngineError):
            bench.executor.submit(first_plan(2))
        bench.executor.reset()
        bench.start()
        assert await bench.tokens(first_plan(3)) == (OUTPUT[0],)

    run()
    assert [str(args.exc_value) for args in escaped] == ["defect"]


@bench_test
async def test_reset_forgets_slots_and_posts_nothing_from_before(bench: Bench) -> None:
    with bench.computing():
        begun = asyncio.create_task(bench.launched(1))
        await asyncio.sleep(0)
        bench.executor.submit(first_plan(0))
        bench.executor.submit(decode(1))
        await begun
        bench.executor.reset()
        bench.start()
        bench.executor.submit(StepPlan(step_id=10, rows=(row(0, 6, 1),)))
        bench.executor.submit(first_plan(11, slot=0, pages=(8, 9)))
    stale = await bench.result()
    assert isinstance(stale, StepFailed), "the slot is closed"
    assert stale.step_id == 10
    result = await bench.result()
    assert isinstance(result, StepDone)
    assert (result.step_id, result.token_ids) == (11, (OUTPUT[0],))
    assert bench.results.empty()


def test_stop_finishes_the_steps_in_flight_and_drops_the_rest() -> None:
    async def run() -> None:
        bench = Bench()
        bench.start()
        with bench.computing():
            begun = asyncio.create_task(bench.launched(2))
            await asyncio.sleep(0)
            for plan in (first_plan(0), decode(1), decode(2)):
                bench.executor.submit(plan)
            await begun
            launcher = bench.executor._threads[0]
            join = launcher.join

            def let_it_finish(timeout: float | None = None) -> None:
                bench.port.gate.set()
                join(timeout)

            launcher.join = let_it_finish  # type: ignore[method-assign]
            bench.executor.stop()
        assert bench.model.num_calls == 2
        assert bench.results.empty()
        bench.executor.stop()
        with pytest.raises(EngineError):
            bench.executor.submit(first_plan(2))

    asyncio.run(run())


def test_stop_before_start_and_start_after_stop() -> None:
    async def run() -> None:
        bench = Bench()
        bench.executor.stop()
        bench.start()
        assert await bench.tokens(first_plan(0)) == (OUTPUT[0],)
        bench.executor.stop()
        bench.executor.reset()
        bench.start()
        assert await bench.tokens(first_plan(1)) == (OUTPUT[0],)
        bench.executor.stop()

    asyncio.run(run())


def test_a_plan_before_start_is_refused() -> None:
    with pytest.raises(EngineError):
        Bench().executor.submit(first_plan(0))


def test_warm_up_records_graphs_and_leaves_slots_keys_and_values_alone() -> None:
    async def run() -> None:
        bench = Bench(buckets=(1, 2, 3))
        bench.executor.warm_up()
        pages = LIMITS.num_pages
        assert all((tensor[:pages] == -1.0).all() for tensor in (*bench.kv.keys, *bench.kv.values))
        assert [len(graph.output) for graph in bench.port.graphs] == [3, 2, 1], "the largest first"
        bench.start()
        assert await bench.tokens(first_plan(0)) == (OUTPUT[0],)
        assert await bench.tokens(decode(1)) == (OUTPUT[1],)
        assert [graph.num_replays for graph in bench.port.graphs] == [0, 0, 1]
        assert len(bench.model.threads) == 1, "warm-up and steps share the launcher"
        bench.executor.stop()

    asyncio.run(run())


def test_warm_up_tells_that_the_model_can_not_compute() -> None:
    bench = Bench()
    bench.raise_next(RuntimeError("no such instruction"))
    with pytest.raises(EngineError, match="no such instruction"):
        bench.executor.warm_up()
    bench.executor.stop()
