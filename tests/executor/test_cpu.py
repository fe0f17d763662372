"""The CPU executor's thread: order, overlap, failures, reset and stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from runtime.errors import EngineError, RankLost
from runtime.executor.cpu import CpuExecutor
from runtime.messages import INVALID_TOKEN, SlotOpen, StepDone, StepFailed, StepPlan
from runtime.params import SamplingParams
from tests.executor.toy_model import LIMITS, PROMPT, ToyModel, first_plan, make_kv, opened, row
from tests.fakes.executor import expected_output, next_token

TIMEOUT_S = 30.0
Result = StepDone | StepFailed
OUTPUT = expected_output(PROMPT, 8, LIMITS.vocab_size)


@dataclass
class Hold:
    """A forward pass that waits in the middle."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(TIMEOUT_S)


class Bench:
    """An executor with a toy model, and the results it has posted."""

    def __init__(self) -> None:
        self.model = ToyModel()
        self.kv = make_kv()
        self.executor = CpuExecutor(self.model, self.kv, LIMITS, num_threads=1)
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
    def held(self) -> Iterator[Hold]:
        """The next forward pass lasts until the end of this block."""
        hold = Hold()
        self.model.hooks.append(hold)
        try:
            yield hold
        finally:
            hold.go_on.set()

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
            bench.executor.stop()

    def run_test() -> None:
        asyncio.run(run())

    run_test.__name__ = test.__name__  # type: ignore[attr-defined]
    return run_test


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
async def test_results_are_posted_on_the_loop_and_computed_on_one_other_thread(bench: Bench) -> None:
    for step_id in range(3):
        await bench.run(first_plan(step_id))
    assert bench.post_threads == {threading.current_thread()}
    assert len(bench.model.threads) == 1
    assert threading.current_thread() not in bench.model.threads


@bench_test
async def test_a_plan_ahead_reads_the_token_that_the_one_before_samples(bench: Bench) -> None:
    with bench.held():
        bench.executor.submit(first_plan(0))
        bench.executor.submit(StepPlan(step_id=1, rows=(row(0, 6, 1),)))
        bench.executor.submit(StepPlan(step_id=2, rows=(row(0, 7, 1),)))
    results = [await bench.result() for _ in range(3)]
    assert [result.step_id for result in results] == [0, 1, 2]
    assert [result.token_ids for result in results if isinstance(result, StepDone)] == [(t,) for t in OUTPUT[:3]]


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
async def test_sampled_rows_use_their_rules(bench: Bench) -> None:
    params = SamplingParams(temperature=0.0, logit_bias={77: 100.0})
    opening = opened(0, (3, 1), params=params)
    assert await bench.tokens(StepPlan(step_id=0, opens=(opening,), rows=(row(0, 0, 6),))) == (77,)
    assert await bench.tokens(first_plan(1, slot=0)) == (OUTPUT[0],), "an open forgets the rules before it"


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

    def poisoned(batch, kv):  # type: ignore[no-untyped-def]
        logits = compute(batch, kv)
        logits[0, 5] = torch.nan
        return logits

    bench.model.hidden_states = poisoned  # type: ignore[method-assign]
    opens = (opened(0, (3, 1)), opened(1, (4, 5)))
    assert await bench.tokens(StepPlan(step_id=0, opens=opens, rows=(row(0, 0, 6), row(1, 0, 6)))) == (INVALID_TOKEN, OUTPUT[0])
    assert await bench.tokens(StepPlan(step_id=1, rows=(row(0, 6, 1), row(1, 6, 1)))) == (INVALID_TOKEN, OUTPUT[1])


@pytest.mark.parametrize(
    "error",
    [RuntimeError("can't allocate memory"), MemoryError(), ValueError("bad"), IndexError("bad"), ZeroDivisionError()],
    ids=repr,
)
def test_a_step_that_raises_fails_alone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        await bench.run(StepPlan(step_id=0, opens=(opened(1, (4, 5)),), rows=(row(1, 0, 6),)))
        bench.raise_next(error)
        failed = await bench.run(first_plan(1))
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
async def test_a_plan_that_does_not_fit_is_answered(bench: Bench) -> None:
    result = await bench.run(StepPlan(step_id=9, rows=(row(0, 0, 1),)))
    assert isinstance(result, StepFailed)
    assert "slot 0" in result.reason


def test_a_defect_is_fatal_and_a_reset_brings_a_new_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    escaped: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)

    @bench_test
    async def run(bench: Bench) -> None:
        bench.raise_next(TypeError("defect"))
        failed = await bench.run(first_plan(1))
        assert isinstance(failed, StepFailed)
        assert failed.is_fatal
        worker = bench.model.threads.pop()
        worker.join(TIMEOUT_S)
        with pytest.raises(EngineError):
            bench.executor.submit(first_plan(2))
        bench.executor.reset()
        bench.start()
        assert await bench.tokens(first_plan(3)) == (OUTPUT[0],)
        assert bench.model.threads != {worker}

    run()
    assert [str(args.exc_value) for args in escaped] == ["defect"]


def test_a_lost_rank_is_fatal_and_says_why() -> None:
    @bench_test
    async def run(bench: Bench) -> None:
        bench.raise_next(RankLost("the ranks could not add up their parts"))
        failed = await bench.run(first_plan(1))
        assert failed == StepFailed(step_id=1, reason="the ranks could not add up their parts", is_fatal=True, lost="rank")
        bench.executor.reset()
        bench.start()
        assert await bench.tokens(first_plan(2)) == (OUTPUT[0],), "the worker lives"
        assert len(bench.model.threads) == 1

    run()


def test_a_rank_that_is_lost_in_the_warm_up() -> None:
    bench = Bench()
    bench.raise_next(RankLost("rank 1 is gone"))
    with pytest.raises(RankLost, match="rank 1 is gone"):
        bench.executor.warm_up()
    bench.executor.stop()


@bench_test
async def test_reset_forgets_slots_and_posts_nothing_from_before(bench: Bench) -> None:
    with bench.held() as hold:
        bench.executor.submit(first_plan(0))
        bench.executor.submit(StepPlan(step_id=1, rows=(row(0, 6, 1),)))
        assert await asyncio.to_thread(hold.begun.wait, TIMEOUT_S)
        bench.executor.reset()
        bench.start()
        bench.executor.submit(StepPlan(step_id=10, rows=(row(0, 6, 1),)))
        bench.executor.submit(first_plan(11, slot=0, pages=(8, 9)))
    stale = await bench.result()
    assert isinstance(stale, StepFailed), "the slot is closed"
    assert stale.step_id == 10
    result = await bench.result()
    assert result == StepDone(step_id=11, token_ids=(OUTPUT[0],), device_us=result.device_us, host_us=result.host_us)
    assert bench.results.empty()


@bench_test
async def test_a_result_on_its_way_is_not_posted_after_a_reset(bench: Bench) -> None:
    sent = threading.Event()
    call_soon_threadsafe = asyncio.get_running_loop().call_soon_threadsafe

    def tell(*args, **kwargs):  # type: ignore[no-untyped-def]
        handle = call_soon_threadsafe(*args, **kwargs)
        sent.set()
        return handle

    asyncio.get_running_loop().call_soon_threadsafe = tell  # type: ignore[method-assign]
    bench.executor.submit(first_plan(0))
    assert sent.wait(TIMEOUT_S), "the loop does not run while this waits"
    bench.executor.reset()
    bench.start()
    assert (await bench.run(first_plan(1))).step_id == 1


def test_stop_finishes_the_step_in_flight_and_drops_the_rest() -> None:
    async def run() -> None:
        bench = Bench()
        bench.start()
        with bench.held() as hold:
            bench.executor.submit(first_plan(0))
            bench.executor.submit(StepPlan(step_id=1, rows=(row(0, 6, 1),)))
            assert await asyncio.to_thread(hold.begun.wait, TIMEOUT_S)
            (worker,) = bench.model.threads
            join = worker.join

            def let_it_finish(timeout: float | None = None) -> None:
                hold.go_on.set()
                join(timeout)

            worker.join = let_it_finish  # type: ignore[method-assign]
            bench.executor.stop()
        assert bench.model.num_calls == 1
        assert not worker.is_alive()
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


def test_a_result_for_a_closed_loop_is_dropped() -> None:
    async def start(bench: Bench) -> None:
        bench.start()

    bench = Bench()
    asyncio.run(start(bench))
    bench.executor.submit(first_plan(0))
    bench.executor.warm_up()  # comes back only from a worker that has survived the plan
    bench.executor.stop()
    assert bench.results.empty()


def test_warm_up_leaves_slots_keys_and_values_alone() -> None:
    async def run() -> None:
        bench = Bench()
        bench.executor.warm_up()
        assert bench.model.num_calls >= 2
        assert all((tensor == -1.0).all() for tensor in (*bench.kv.keys, *bench.kv.values))
        bench.start()
        assert await bench.tokens(first_plan(0)) == (OUTPUT[0],)
        assert len(bench.model.threads) == 1, "warm-up and steps share the worker"
        bench.executor.stop()

    asyncio.run(run())


def test_warm_up_tells_that_the_model_can_not_compute() -> None:
    bench = Bench()
    bench.raise_next(RuntimeError("no such instruction"))
    with pytest.raises(EngineError, match="no such instruction"):
        bench.executor.warm_up()
    bench.executor.stop()
