"""One static batch through the executor's port, as the scheduler would drive it: no server, any device.

Owns slots and pages of an executor that it has for itself. Keys and values are computed first, so that no step runs over zeros,
which are faster than numbers. Steps are timed between one result and the next, with as many plans in flight as asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

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


class Noted(NamedTuple):
    """A result, and seconds since the one before it."""

    result: StepDone
    took_s: float


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
        self._token_ids = np.random.default_rng(2).integers(limits.vocab_size, size=(num_rows, max_tokens)).tolist()
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

        return _times(await self._run(plans(), depth))

    async def prefill(self, num_rows: int, num_tokens: int, num_runs: int) -> Times:
        """`num_rows` prompts of `num_tokens` tokens in one step, without any cached prefix."""

        def plans() -> Iterator[StepPlan]:
            for _ in range(num_runs + NUM_WARM_UPS):
                slots = range(num_rows)
                yield self._plan([(slot, num_tokens) for slot in slots], [(slot, 0, num_tokens) for slot in slots])

        return _times(await self._run(plans(), 1))

    async def generate(self, prompt_lengths: dict[int, int], num_new: int, depth: int) -> list[list[int]]:
        """The greedy token ids of prompts of these lengths by sequence, computed side by side."""
        slots = list(prompt_lengths.items())

        def plans() -> Iterator[StepPlan]:
            yield self._plan(slots, [(slot, 0, length) for slot, length in slots])
            for step in range(num_new - 1):
                yield self._plan([], [(slot, length + step, 1) for slot, length in slots])

        steps = [noted.result.token_ids for noted in await self._run(plans(), depth)]
        return [list(ids) for ids in zip(*steps, strict=True)]

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

    async def _run(self, plans: Iterable[StepPlan], depth: int) -> list[Noted]:
        """The results in order, `depth` plans being in flight."""
        noted: list[Noted] = []
        num_submitted, last = 0, time.perf_counter()
        for plan in plans:
            self._executor.submit(plan)
            num_submitted += 1
            if num_submitted - len(noted) == depth:
                last = await self._note(noted, last)
        while len(noted) < num_submitted:
            last = await self._note(noted, last)
        return noted

    async def _note(self, noted: list[Noted], last: float) -> float:
        result = await self._results.get()
        now = time.perf_counter()
        if not isinstance(result, StepDone):
            raise RuntimeError(f"a step failed: {result.reason if isinstance(result, StepFailed) else result}")
        noted.append(Noted(result, now - last))
        return now


def _times(noted: list[Noted]) -> Times:
    """Of all but the first steps."""
    kept = noted[NUM_WARM_UPS:]
    return Times([took_s * 1e3 for _, took_s in kept], [result.device_us / 1e3 for result, _ in kept])
