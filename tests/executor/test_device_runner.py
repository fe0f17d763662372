"""Steps on a device give what steps on the CPU give: random plans, two in flight, over a model whose answers are known."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from runtime.clock import SystemClock
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import StepRunner
from runtime.messages import SlotOpen, StepDone, StepFailed, StepPlan, StepRow
from runtime.params import SamplingParams
from tests.executor.device_bench import DeviceBench
from tests.executor.toy_model import PROMPT, ToyModel, make_kv, opened, row
from tests.fakes.executor import expected_output

LIMITS = ExecutorLimits(num_pages=60, page_size=4, num_slots=5, context_length=48, vocab_size=300)
NUM_STEPS = 40
PARAMS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.7, frequency_penalty=0.4, presence_penalty=0.3),
    SamplingParams(temperature=0.0, logit_bias={7: 0.5, 8: -3.0, 9: 0.9}),
    SamplingParams(temperature=0.0, min_new_tokens=3, frequency_penalty=2.0),
)


@dataclass
class Sequence:
    opened: SlotOpen
    num_planned: int
    length: int
    pages: list[int]


class Planner:
    """Plans as a scheduler makes them: chunks, decodes, slots left out for some steps, ends, and slots that are taken again."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.running: dict[int, Sequence] = {}
        self.free_pages = self.rng.sample(range(LIMITS.num_pages), LIMITS.num_pages)
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
        self.free_pages += self.running.pop(slot).pages
        self.closes.append(slot)

    def open(self, slot: int) -> SlotOpen:
        token_ids = tuple(self.rng.randrange(300) for _ in range(self.rng.randint(1, 14)))
        num_prompt = self.rng.randint(1, len(token_ids))  # the rest is what a retracted sequence had generated
        opened = SlotOpen(
            slot=slot,
            token_ids=token_ids,
            num_prompt_tokens=num_prompt,
            pages=self.take(-(-len(token_ids) // 4)),
            params=self.rng.choice(PARAMS),
            masked_token_ids=(5, 6),
        )
        self.running[slot] = Sequence(opened, 0, len(token_ids), list(opened.pages))
        return opened

    def take(self, num_pages: int) -> tuple[int, ...]:
        return tuple(self.free_pages.pop(0) for _ in range(num_pages))

    def row(self, slot: int) -> StepRow:
        sequence = self.running[slot]
        start = sequence.num_planned
        end = self.rng.randint(start + 1, sequence.length)
        pages = self.take(max(0, -(-end // 4) - len(sequence.pages)))
        sequence.pages += pages
        sequence.num_planned = end
        is_sampled = end == sequence.length and sequence.length < 40
        sequence.length += is_sampled
        if end == sequence.length and not is_sampled:
            sequence.num_planned = end - 1  # nothing more is generated; the last token may be computed again
        return StepRow(slot=slot, start=start, num_tokens=end - start, new_pages=pages, sample=is_sampled)


@pytest.mark.parametrize("buckets", [(), (1, 2, 4, 5), (2,)], ids=["eager", "graphs", "small graphs"])
@pytest.mark.parametrize("seed", range(4))
def test_random_plans_give_the_tokens_of_the_cpu(seed: int, buckets: tuple[int, ...]) -> None:
    planner = Planner(seed)
    bench = DeviceBench(ToyModel(LIMITS), make_kv(LIMITS, num_scratch_pages=1), LIMITS, buckets=buckets)
    reference = StepRunner(ToyModel(LIMITS), make_kv(LIMITS), LIMITS, SystemClock())
    expected = []
    for _ in range(NUM_STEPS):
        plan = planner.plan()
        expected.append(reference.run(plan))
        bench.submit(plan)
    bench.settle()
    assert [result.step_id for result in bench.results] == list(range(NUM_STEPS))
    assert [answer(result) for result in bench.results] == [answer(result) for result in expected]
    assert any(graph.num_replays for graph in bench.port.graphs) == bool(buckets)


@pytest.mark.parametrize("seed", range(3))
def test_after_failed_steps_the_others_go_on(seed: int) -> None:
    """Some forward passes raise, on both sides."""
    planner, failures = Planner(seed), random.Random(seed)
    models = [ToyModel(LIMITS), ToyModel(LIMITS)]
    bench = DeviceBench(models[0], make_kv(LIMITS, num_scratch_pages=1), LIMITS)
    reference = StepRunner(models[1], make_kv(LIMITS), LIMITS, SystemClock())
    expected = []
    for _ in range(NUM_STEPS):
        plan = planner.plan()
        fails = failures.random() < 0.15
        for model in models:
            model.hooks = [fail if fails else lambda: None]
        bench.submit(plan)
        expected.append(reference.run(plan))
    bench.settle()
    assert [answer(result) for result in bench.results] == [answer(result) for result in expected]
    assert any(isinstance(result, StepFailed) for result in expected)


def fail() -> None:
    raise RuntimeError("out of memory")


def answer(result: StepDone | StepFailed) -> tuple[int, ...] | None:
    return result.token_ids if isinstance(result, StepDone) else None


def test_rows_that_fill_up_a_graph_touch_no_page_of_a_sequence() -> None:
    """The page of a closed slot has become another's second one; the graph has room for a row that nobody asked for."""
    bench = DeviceBench(ToyModel(LIMITS), make_kv(LIMITS, num_scratch_pages=1), LIMITS, buckets=(2,))
    opens = (opened(0, (3, 1)), opened(1, (5, 7)))
    bench.submit(StepPlan(step_id=0, opens=opens, rows=(row(0, 0, 6), row(1, 0, 6))))
    bench.submit(StepPlan(step_id=1, closes=(0, 1), opens=(opened(2, (5, 3)),), rows=(row(2, 0, 6),)))
    for position in range(6, 8):
        bench.submit(StepPlan(step_id=position, rows=(row(2, position, 1),)))
    bench.settle()
    assert [answer(result) for result in bench.results[1:]] == [(token_id,) for token_id in expected_output(PROMPT, 3, 300)]
    assert bench.port.graphs[0].num_replays == 2
