"""The bench as a scheduler: plans that an executor may trust, and times that belong to them."""

from __future__ import annotations

import asyncio

import pytest

from perf.measurement import Costs, measurement
from perf.network import network_of
from perf.roofline import Roofline
from perf.shapes import read
from perf.static_batch import NUM_WARM_UPS, StaticBatch, Times
from perf.step_load import Timed
from runtime.executor.port import ExecutorLimits, PostResult
from runtime.messages import RunCommand, SlotOpen, StepDone, StepFailed, StepPlan

LIMITS = ExecutorLimits(num_pages=30, page_size=4, num_slots=4, context_length=40, vocab_size=100)


class Recorder:
    """Answers a turn of the loop later, and checks that what it is told goes together."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.limits = LIMITS
        self.plans: list[StepPlan] = []
        self.num_in_flight = self.most_in_flight = 0
        self.open: dict[int, SlotOpen] = {}
        self.known: dict[int, int] = {}
        self._fails_at = fails_at
        self._post: PostResult | None = None

    def start(self, post: PostResult) -> None:
        self._post = post

    def submit(self, plan: StepPlan) -> None:
        self.plans.append(plan)
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        for slot in plan.closes:
            del self.open[slot], self.known[slot]
        for opened in plan.opens:
            assert opened.slot not in self.open
            self.open[opened.slot], self.known[opened.slot] = opened, len(opened.token_ids)
        for row in plan.rows:
            end = row.start + row.num_tokens
            assert end <= self.known[row.slot]
            assert end <= len(self.open[row.slot].pages) * LIMITS.page_size
            assert row.sample == (end == self.known[row.slot])
            self.known[row.slot] += row.sample
        asyncio.get_running_loop().call_soon(self._answer, plan)

    def _answer(self, plan: StepPlan) -> None:
        assert self._post is not None
        self.num_in_flight -= 1
        if len(self.plans) == self._fails_at:
            self._post(StepFailed(step_id=plan.step_id, reason="out of luck"))
            return
        self._post(StepDone(step_id=plan.step_id, token_ids=(1,) * sum(row.sample for row in plan.rows), device_us=2000))

    def execute(self, command: RunCommand) -> None:
        raise AssertionError(command)

    def reset(self) -> None:
        raise AssertionError

    def stop(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("depth", [1, 2])
def test_a_decode_step_adds_a_token_to_every_sequence(depth: int) -> None:
    async def run() -> tuple[Recorder, Times]:
        executor = Recorder()
        times = await StaticBatch(executor, 3, 40, 16).decode(3, 20, 8, depth)
        return executor, times

    executor, times = asyncio.run(run())
    starts = [[row.start for row in plan.rows] for plan in executor.plans]
    assert starts == [[20 + step] * 3 for step in range(8 + NUM_WARM_UPS)]
    assert executor.most_in_flight == depth
    assert len(times.step_ms) == 8
    assert times.device_ms == [2.0] * 8
    pages = [page for opened in executor.open.values() for page in opened.pages]
    assert sorted(pages) == list(range(30))


@pytest.mark.parametrize(
    ("max_step_tokens", "counts"), [(16, [[10], [10], [10]]), (20, [[10, 10], [10]]), (4, [[4], [4], [2]] * 3)]
)
def test_keys_and_values_are_computed_for_all(max_step_tokens: int, counts: list[list[int]]) -> None:
    async def run() -> Recorder:
        executor = Recorder()
        batch = StaticBatch(executor, 3, 40, max_step_tokens)
        await batch.fill(3, 10)
        await batch.decode(2, 10, 1, 2)
        return executor

    plans = asyncio.run(run()).plans
    assert [[row.num_tokens for row in plan.rows] for plan in plans[: len(counts)]] == counts
    assert {row.slot for plan in plans[: len(counts)] for row in plan.rows} == {0, 1, 2}


def test_prompts_are_computed_whole_in_one_step() -> None:
    async def run() -> Recorder:
        executor = Recorder()
        await StaticBatch(executor, 2, 12, 64).prefill(2, 12, 4)
        return executor

    plans = asyncio.run(run()).plans
    assert len(plans) == 4 + NUM_WARM_UPS
    assert all([(row.start, row.num_tokens) for row in plan.rows] == [(0, 12)] * 2 for plan in plans)


def test_a_step_that_fails_ends_the_measurement() -> None:
    async def run() -> None:
        await StaticBatch(Recorder(fails_at=5), 1, 40, 16).decode(1, 20, 8, 1)

    with pytest.raises(RuntimeError, match="out of luck"):
        asyncio.run(run())


def test_results_that_come_in_pairs_are_averaged() -> None:
    costs = Costs(network_of(read("tiny")), 2, 2)
    limits = Roofline("nowhere", "bfloat16", copy_bandwidth=1e9, read_bandwidth=2e9, rate=1e12)
    times = Times([9.9, 0.1] * 5, [4.0] * 10)
    row = measurement("tiny", Timed("decode", (10, 32, 1), True, times), costs, limits)
    assert (row.median_ms, row.min_ms, row.device_ms) == (5.0, 5.0, 4.0)
    assert row.tokens_per_s == pytest.approx(2000)
    least_ms = costs.network.work(10, 32, 1, weight_bytes=2, cache_bytes=2).num_bytes / 2e6
    assert row.least_ms == pytest.approx(least_ms)
    assert row.roofline == pytest.approx(least_ms / 5.0)
