"""One static batch through the executor's port, as the scheduler would drive it: no server, any device.

Owns slots and pages of an executor that it has for itself. Keys and values are computed first, so that no step runs over zeros,
which are faster than numbers. Steps are timed between one result and the next, with as many plans in flight as asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from runtime.executor.port import Executor
from runtime.messages import CommandRan, SlotOpen, StepDone, StepFailed, StepPlan, StepRow
from runtime.params import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
NUM_WARM_UPS = 3


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of each step: between results, and inside the model and the sampler as the executor says."""

    step_ms: list[float]
    device_ms: list[float]


class StaticBatch:
    """At most `num_rows` sequences of `max_tokens` tokens. Raises `RuntimeError` when a step fails.

    Used inside one event loop: the executor posts its results there.
    """

    def __init__(self, executor: Executor, num_rows: int, max_tokens: int, max_step_tokens: int) -> None:
        limits = executor.limits
        self._executor = executor
        self._max_step_tokens = max_step_tokens
        pages_per_row = -(-max_tokens // limits.page_size)
        rng = np.random.default_rng(1)
        self._pages = rng.permutation(limits.num_pages)[: num_rows * pages_per_row].reshape(num_rows, pages_per_row).tolist()
        self._token_ids = rng.integers(limits.vocab_size, size=(num_rows, max_tokens)).tolist()
        self._num_known: dict[int, int] = {}
        """By open slot, how many of its tokens the executor was told."""
        self._next_step = 0
        self._results: asyncio.Queue[StepDone | StepFailed | CommandRan] = asyncio.Queue()
        executor.start(self._results.put_nowait)

    async def fill(self, num_rows: int, num_tokens: int, see: Callable[[], object] = bool) -> None:
        """Compute keys and values of the first `num_tokens` tokens of the first `num_rows` sequences.

        `see` is called after each step.
        """
        share = max(1, self._max_step_tokens // num_tokens)
        for first in range(0, num_rows, share):
            slots = range(first, min(first + share, num_rows))
            for start in range(0, num_tokens, self._max_step_tokens):
                count = min(self._max_step_tokens, num_tokens - start)
                opens = [(slot, num_tokens) for slot in slots] if start == 0 else []
                await self._run([self._plan(opens, [(slot, start, count) for slot in slots])], 1)
                see()

    async def decode(self, num_rows: int, context: int, num_steps: int, depth: int) -> Times:
        """One new token for each of the first `num_rows` sequences a step, with `context` tokens before the first.

        depth: plans in flight; 2 is the overlapped schedule, with 1 a plan waits for the result before it.
        """
        slots = range(num_rows)

        def plans() -> Iterator[StepPlan]:
            for step in range(num_steps + NUM_WARM_UPS):
                opens = [(slot, context + 1) for slot in slots] if step == 0 else []
                yield self._plan(opens, [(slot, context + step, 1) for slot in slots])

        return await self._run(plans(), depth)

    async def prefill(self, num_rows: int, num_tokens: int, num_runs: int) -> Times:
        """`num_rows` prompts of `num_tokens` tokens in one step, without any cached prefix."""

        def plans() -> Iterator[StepPlan]:
            for _ in range(num_runs + NUM_WARM_UPS):
                slots = range(num_rows)
                yield self._plan([(slot, num_tokens) for slot in slots], [(slot, 0, num_tokens) for slot in slots])

        return await self._run(plans(), 1)

    def _plan(self, opens: list[tuple[int, int]], rows: list[tuple[int, int, int]]) -> StepPlan:
        """opens: slots and how many of their tokens are known. rows: slots, starts and counts."""
        closes = tuple(self._num_known) if opens else ()
        if opens:
            self._num_known = dict(opens)
        self._next_step += 1
        return StepPlan(
            step_id=self._next_step,
            closes=closes,
            opens=tuple(self._slot_open(slot, num_known) for slot, num_known in opens),
            rows=tuple(self._row(*row) for row in rows),
        )

    def _row(self, slot: int, start: int, count: int) -> StepRow:
        return StepRow(slot=slot, start=start, num_tokens=count, sample=start + count >= self._num_known[slot])

    def _slot_open(self, slot: int, num_known: int) -> SlotOpen:
        token_ids = tuple(self._token_ids[slot][:num_known])
        return SlotOpen(
            slot=slot, token_ids=token_ids, num_prompt_tokens=num_known, pages=tuple(self._pages[slot]), params=GREEDY
        )

    async def _run(self, plans: Iterator[StepPlan] | list[StepPlan], depth: int) -> Times:
        """Times of all but the first steps."""
        times, num_in_flight, last = Times([], []), 0, time.perf_counter()
        for plan in plans:
            self._executor.submit(plan)
            num_in_flight += 1
            if num_in_flight == depth:
                last = await self._note(times, last)
                num_in_flight -= 1
        for _ in range(num_in_flight):
            last = await self._note(times, last)
        return Times(times.step_ms[NUM_WARM_UPS:], times.device_ms[NUM_WARM_UPS:])

    async def _note(self, times: Times, last: float) -> float:
        result = await self._results.get()
        now = time.perf_counter()
        if not isinstance(result, StepDone):
            raise RuntimeError(f"a step failed: {result.reason if isinstance(result, StepFailed) else result}")
        times.step_ms.append((now - last) * 1e3)
        times.device_ms.append(result.device_us / 1e3)
        return now
