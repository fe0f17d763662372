"""What breaks: actors that crash at a chosen message, and an executor whose steps fail, lie or take their time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from runtime.actors.actor import Actor
from runtime.actors.mailbox import Envelope
from runtime.actors.supervisor import Crash, Group, Supervisor
from runtime.errors import EngineError
from runtime.executor.port import ExecutorLimits
from runtime.messages import CommandRan, StepDone, StepFailed, StepPlan
from tests.fakes.executor import FakeExecutor
from tests.sim.scenario import ActorCrash, StepFault

SLOW_STEP_S = 1.5
LOST_ENGINE = "simulated loss of the device"


class SimulatedCrash(Exception):
    """Stands for any bug in an actor."""


class CrashingSupervisor(Supervisor):
    """Makes actors crash as the scenario says. `cast` are the ones that live now, by name; `report` hears of other crashes."""

    def arrange(self, crashes: tuple[ActorCrash, ...]) -> None:
        """To be called before the first `add`."""
        self.cast: dict[str, Actor] = {}
        self.report: Callable[[str], None] = lambda problem: None
        self._crashes = {(crash.name, crash.nth): crash for crash in crashes}
        self._num_handled: Counter[str] = Counter()

    def add(self, group: Group) -> None:
        on_crash = group.on_crash

        def judge_and_pass_on(crash: Crash) -> None:
            if not _is_meant(crash.error):
                self.report(f"the {crash.name} crashed: {type(crash.error).__name__}: {crash.error}")
            on_crash(crash)

        group.on_crash = judge_and_pass_on
        group.factories = {name: self._watched(name, factory) for name, factory in group.factories.items()}
        super().add(group)

    def _watched(self, name: str, factory: Callable[[], Actor]) -> Callable[[], Actor]:
        def build() -> Actor:
            actor = factory()
            self.cast[name] = actor
            handle = actor.handle

            async def handle_or_crash(envelope: Envelope) -> None:
                self._num_handled[name] += 1
                crash = self._crashes.get((name, self._num_handled[name]))
                if crash is not None and crash.when == "before":
                    raise SimulatedCrash(f"before {type(envelope.message).__name__}")
                await handle(envelope)
                if crash is not None:
                    raise SimulatedCrash(f"after {type(envelope.message).__name__}")

            actor.handle = handle_or_crash  # type: ignore[method-assign]
            return actor

        return build


def _is_meant(error: BaseException) -> bool:
    """Whether the scenario made it happen: a simulated crash, or a step that lost the engine."""
    return isinstance(error, SimulatedCrash) or (type(error) is EngineError and str(error).endswith(LOST_ENGINE))


class FaultyExecutor(FakeExecutor):
    """The fake executor on virtual time. `page_writes` are the pages that each step in flight will write to."""

    def __init__(
        self, limits: ExecutorLimits, loop: asyncio.AbstractEventLoop, step_s: float, faults: tuple[StepFault, ...]
    ) -> None:
        super().__init__(limits, schedule=self._run_later)
        self._loop = loop
        self._step_s = step_s
        self._faults = {fault.nth: fault.kind for fault in faults}
        self._num_submitted = 0
        self._due_s = 0.0
        self._invalid_steps: set[int] = set()
        self._tables: dict[int, list[int]] = {}
        self.page_writes: dict[int, set[int]] = {}
        self.observe_plan: Callable[[StepPlan], None] = lambda plan: None

    def submit(self, plan: StepPlan) -> None:
        self._num_submitted += 1
        self.observe_plan(plan)
        self._follow_pages(plan)
        kind = self._faults.get(self._num_submitted)
        if kind in ("failed", "fatal"):
            self.fail_next(LOST_ENGINE, is_fatal=kind == "fatal")
        elif kind == "invalid":
            self._invalid_steps.add(plan.step_id)
        elif kind == "slow":
            self._due_s += SLOW_STEP_S
        super().submit(plan)

    def step(self) -> StepDone | StepFailed | CommandRan | None:
        result = super().step()
        if isinstance(result, StepDone | StepFailed):
            self.page_writes.pop(result.step_id, None)
        return result

    def reset(self) -> None:
        super().reset()
        self._invalid_steps.clear()
        self._tables.clear()
        self.page_writes.clear()

    def _run_later(self, run: Callable[[], object]) -> None:
        self._due_s = max(self._due_s, self._loop.time()) + self._step_s
        self._loop.call_at(self._due_s, run)

    def _run(self, plan: StepPlan) -> StepDone:
        if plan.step_id in self._invalid_steps:
            self.invalid_slots = {row.slot for row in plan.rows}
        done = super()._run(plan)
        self.invalid_slots = set()
        return done

    def _follow_pages(self, plan: StepPlan) -> None:
        for slot in plan.closes:
            self._tables.pop(slot, None)
        for opened in plan.opens:
            self._tables[opened.slot] = list(opened.pages)
        written: set[int] = set()
        for row in plan.rows:
            table = self._tables.get(row.slot, [])
            table += row.new_pages
            first, last = row.start // self.limits.page_size, (row.start + row.num_tokens - 1) // self.limits.page_size
            written.update(table[first : last + 1])
        self.page_writes[plan.step_id] = written
