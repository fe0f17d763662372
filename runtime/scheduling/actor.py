"""The Scheduler actor: a thin shell that feeds messages to `Scheduling` and sends what comes out.

Receives requests from the Tokenizer, aborts, answers of the Cache and the Grammar, and the executor's results, which are
posted to its mailbox. Sends to the Cache, the Grammar, the executor, the Detokenizer, Http and Metrics. Steps are planned once
per batch of messages. Commands to the engine are asked, and answered when they have run; other messages are handled meanwhile.
A fatal step raises `EngineError`, so that the supervisor restarts the engine group.
"""

from __future__ import annotations

import asyncio
import logging

from runtime.actors.actor import Actor, Ref, receives
from runtime.clock import Clock
from runtime.executor.port import Executor
from runtime.messages import (
    Abort,
    Admit,
    CommandRan,
    ContinueGeneration,
    Done,
    EngineCommand,
    GrammarFailed,
    GrammarReady,
    PagesDenied,
    PagesGranted,
    PauseGeneration,
    PrefixMatched,
    Probe,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RunCommand,
    SchedulerState,
    StartProfile,
    StepDone,
    StepFailed,
    StepPlan,
    StepSettled,
    StopProfile,
    UpdateWeights,
)
from runtime.scheduling.state import Scheduling

log = logging.getLogger(__name__)


class Scheduler(Actor):
    def __init__(
        self,
        state: Scheduling,
        *,
        cache: Ref,
        grammar: Ref,
        executor: Executor,
        detokenizer: Ref,
        http: Ref,
        metrics: Ref,
        clock: Clock,
    ) -> None:
        self._state = state
        self._executor = executor
        self._refs = {
            "cache": cache,
            "grammar": grammar,
            "detokenizer": detokenizer,
            "http": http,
            "metrics": metrics,
        }
        self._clock = clock
        self._num_commands = 0
        self._answers: dict[int, asyncio.Future[Done | Refused]] = {}

    async def started(self) -> None:
        await self.after_batch()  # metrics show an idle engine, after a restart too

    async def after_batch(self) -> None:
        self._state.advance(self._clock.monotonic())
        for destination, message in self._state.take_effects():
            match destination, message:
                case "executor", StepPlan():
                    self._executor.submit(message)
                case "executor", RunCommand():
                    self._executor.execute(message)
                case "asker", CommandRan():
                    self._answers.pop(message.command_id).set_result(message.answer)
                case _:
                    self._refs[destination].tell(message)

    @receives(Admit)
    async def admit(self, message: Admit) -> None:
        self._state.admit(message, self._clock.monotonic())

    @receives(Abort)
    async def abort(self, message: Abort) -> None:
        self._state.abort(message)

    @receives(GrammarReady)
    async def grammar_ready(self, message: GrammarReady) -> None:
        self._state.grammar_ready(message)

    @receives(GrammarFailed)
    async def grammar_failed(self, message: GrammarFailed) -> None:
        self._state.grammar_failed(message)

    @receives(PagesGranted)
    async def pages_granted(self, message: PagesGranted) -> None:
        self._state.granted(message)

    @receives(PagesDenied)
    async def pages_denied(self, message: PagesDenied) -> None:
        self._state.denied(message)

    @receives(StepSettled)
    async def step_settled(self, message: StepSettled) -> None:
        self._state.settled(message)

    @receives(PrefixMatched)
    async def prefix_matched(self, message: PrefixMatched) -> None:
        self._state.matched(message)

    @receives(StepDone)
    async def step_done(self, message: StepDone) -> None:
        self._state.step_done(message)

    @receives(StepFailed)
    async def step_failed(self, message: StepFailed) -> None:
        log.error("step %d failed: %s", message.step_id, message.reason)
        self._state.step_failed(message)

    @receives(
        PauseGeneration,
        ContinueGeneration,
        UpdateWeights,
        ReadWeights,
        ReleaseMemory,
        ResumeMemory,
        StartProfile,
        StopProfile,
    )
    async def command(self, message: EngineCommand) -> asyncio.Future[Done | Refused]:
        """The answer comes later, so that messages are handled while the command waits or runs."""
        self._num_commands += 1
        answer: asyncio.Future[Done | Refused] = asyncio.get_running_loop().create_future()
        self._answers[self._num_commands] = answer
        self._state.command(self._num_commands, message)
        return answer

    @receives(CommandRan)
    async def command_ran(self, message: CommandRan) -> None:
        self._state.command_ran(message)

    @receives(Probe)
    async def probe(self, message: Probe) -> SchedulerState:
        return self._state.report()
