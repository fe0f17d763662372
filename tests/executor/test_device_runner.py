"""Steps on a device give what steps on the CPU give: random plans, two in flight, over a model whose answers are known."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest
import torch

from runtime.clock import SystemClock
from runtime.executor.device_runner import DeviceRunner
from runtime.executor.launched import LaunchedStep
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import STEP_ERRORS, StepRunner
from runtime.messages import SlotOpen, StepDone, StepFailed, StepPlan, StepRow
from runtime.params import SamplingParams
from tests.executor.fake_port import FakePort
from tests.executor.toy_model import ToyModel, make_kv

LIMITS = ExecutorLimits(num_pages=60, page_size=4, num_slots=5, context_length=48, vocab_size=300)
PARAMS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.7, frequency_penalty=0.4, presence_penalty=0.3),
    SamplingParams(temperature=0.0, logit_bias={7: 0.5, 8: -3.0, 9: 0.9}),
    SamplingParams(temperature=0.0, min_new_tokens=3, frequency_penalty=2.0),
)


class TwoAhead:
    """A device runner whose steps are completed when two more are launched, or when they have to be."""

    def __init__(self, runner: DeviceRunner) -> None:
        self.runner = runner
        self.in_flight: deque[LaunchedStep | StepFailed] = deque()
        self.results: list[StepDone | StepFailed] = []

    def submit(self, plan: StepPlan) -> None:
        while len(self.in_flight) >= 2:
            self.complete()
        try:
            with torch.inference_mode():
                self.in_flight.append(self.runner.launch(plan, self.settle))
        except STEP_ERRORS as error:
            self.runner.lose(plan)
            self.in_flight.append(StepFailed(step_id=plan.step_id, reason=str(error)))

    def settle(self) -> None:
        while self.in_flight:
            self.complete()

    def complete(self) -> None:
        step = self.in_flight.popleft()
        if isinstance(step, LaunchedStep):
            with torch.inference_mode():
                step.wait()
                step = step.complete()
        self.results.append(step)


def device_runner(buckets: tuple[int, ...] = (), port: FakePort | None = None, model: ToyModel | None = None) -> DeviceRunner:
    runner = DeviceRunner(
        model or ToyModel(LIMITS), make_kv(LIMITS, num_scratch_pages=1), LIMITS, port or FakePort(), SystemClock(), buckets=buckets
    )
    with torch.inference_mode():
        runner.refresh()
    return runner


@dataclass
class Sequence:
    opened: SlotOpen
    num_planned: int
    length: int
    num_pages: int


class Planner:
    """Plans as a scheduler makes them: chunks, decodes, slots left out for some steps, ends, and slots that are taken again."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.running: dict[int, Sequence] = {}
        self.free_pages = list(range(LIMITS.num_pages))
        self.closes: list[int] = []
        self.num_plans = 0

    def plan(self) -> StepPlan:
        for slot in [slot for slot, sequence in self.running.items() if sequence.num_planned >= 39 or self.rng.random() < 0.05]:
            self.close(slot)
        opens = [self.open(slot) for slot in range(LIMITS.num_slots) if slot not in self.running and self.rng.random() < 0.4]
        rows = [self.row(slot) for slot in self.rng.sample(list(self.running), len(self.running)) if self.rng.random() < 0.85]
        if not rows:
            opens += [self.open(0)] if 0 not in self.running else []
            rows = [self.row(0)]
        plan = StepPlan(
            step_id=self.num_plans,
            closes=tuple(self.closes),
            opens=tuple(opened for opened in opens if opened is not None),
            rows=tuple(rows),
        )
        self.closes = []
        self.num_plans += 1
        return plan

    def close(self, slot: int) -> None:
        del self.running[slot]
        self.closes.append(slot)

    def open(self, slot: int) -> SlotOpen:
        token_ids = tuple(self.rng.randrange(300) for _ in range(self.rng.randint(1, 14)))
        num_prompt = self.rng.randint(1, len(token_ids))  # the rest is what a retracted sequence had generated
        opened = SlotOpen(
            slot=slot,
            token_ids=token_ids,
            num_prompt_tokens=num_prompt,
            pages=tuple(range(slot * 12, slot * 12 + -(-len(token_ids) // 4))),
            params=self.rng.choice(PARAMS),
            masked_token_ids=(5, 6),
        )
        self.running[slot] = Sequence(opened, 0, len(token_ids), len(opened.pages))
        return opened

    def row(self, slot: int) -> StepRow:
        sequence = self.running[slot]
        start = sequence.num_planned
        end = self.rng.randint(start + 1, sequence.length)
        pages = range(slot * 12 + sequence.num_pages, slot * 12 + max(sequence.num_pages, -(-end // 4)))
        sequence.num_pages += len(pages)
        sequence.num_planned = end
        is_sampled = end == sequence.length and sequence.length < 40
        sequence.length += is_sampled
        if end == sequence.length and not is_sampled:
            sequence.num_planned = end - 1  # nothing more is generated; the last token may be computed again
        return StepRow(slot=slot, start=start, num_tokens=end - start, new_pages=tuple(pages), sample=is_sampled)


@pytest.mark.parametrize("buckets", [(), (1, 2, 4, 5), (2,)], ids=["eager", "graphs", "small graphs"])
@pytest.mark.parametrize("seed", range(6))
def test_random_plans_give_the_tokens_of_the_cpu(seed: int, buckets: tuple[int, ...]) -> None:
    planner, ahead = Planner(seed), TwoAhead(device_runner(buckets))
    reference = StepRunner(ToyModel(LIMITS), make_kv(LIMITS), LIMITS, SystemClock())
    expected = []
    for _ in range(60):
        plan = planner.plan()
        expected.append(reference.run(plan))
        ahead.submit(plan)
    ahead.settle()
    assert [result.step_id for result in ahead.results] == list(range(60))
    for result, other in zip(ahead.results, expected, strict=True):
        assert isinstance(result, StepDone), result
        assert isinstance(other, StepDone)
        assert result.token_ids == other.token_ids
