from __future__ import annotations

import asyncio
from random import Random

import pytest

from runtime.actors.actor import Ref
from runtime.actors.mailbox import Envelope, Mailbox
from runtime.caching.page_cache import PageCache
from runtime.config import SchedulerConfig
from runtime.errors import EngineError, Failure
from runtime.messages import (
    Abort,
    Finish,
    GrammarFailed,
    GrammarReady,
    Message,
    PagesDenied,
    PagesGranted,
    PrefixMatch,
    PrefixMatched,
    Probe,
    ReservePages,
    SchedulerState,
    SettleStep,
    StepDone,
    StepFailed,
    StepSettled,
    StepStats,
    TokenBatch,
)
from runtime.scheduling.actor import Scheduler
from runtime.scheduling.policy import load_policy
from runtime.scheduling.state import Scheduling
from tests.fakes.executor import FakeExecutor, expected_output
from tests.scheduling.conftest import make_admit, make_limits


class StoppedClock:
    def monotonic(self) -> float:
        return 5.0

    def wall(self) -> float:
        return 5.0


class Stage:
    """A Scheduler with mailboxes that the test reads."""

    def __init__(self) -> None:
        limits = make_limits()
        self.executor = FakeExecutor(limits)
        self.cache = PageCache(limits.num_pages, limits.page_size)
        self.mailboxes = {name: Mailbox(name) for name in ("cache", "grammar", "detokenizer", "http", "metrics")}
        refs = {name: Ref("scheduler", mailbox) for name, mailbox in self.mailboxes.items()}
        self.results: list[Message] = []
        self.executor.start(self.results.append)
        state = Scheduling(limits, SchedulerConfig(), (), load_policy("lpm", Random(0)))
        self.scheduler = Scheduler(state, executor=self.executor, clock=StoppedClock(), **refs)

    async def tell(self, *messages: Message) -> None:
        for message in messages:
            await self.scheduler.handle(Envelope("test", message))
        await self.scheduler.after_batch()

    def received(self, name: str) -> list[Message]:
        return [envelope.message for envelope in self.mailboxes[name].clear()]

    async def answer_cache(self) -> None:
        for message in self.received("cache"):
            if isinstance(message, ReservePages):
                await self.tell(self.cache.reserve(message.request_id, message.token_ids))
            elif isinstance(message, SettleStep):
                await self.tell(self.cache.settle(message))


def test_a_request_goes_from_the_mailbox_to_the_detokenizer() -> None:
    async def run() -> None:
        stage = Stage()
        await stage.tell(make_admit(1, (1, 2, 3), max_new_tokens=2))
        for _ in range(4):
            await stage.answer_cache()
            stage.executor.step()
            await stage.tell(*stage.results)
            stage.results.clear()
        batches = [message for message in stage.received("detokenizer") if isinstance(message, TokenBatch)]
        rows = [row for batch in batches for row in batch.rows]
        assert [token for row in rows for token in row.token_ids] == expected_output((1, 2, 3), 2, 50)
        assert rows[-1].finish == Finish("length", length=2)
        stats = [message for message in stage.received("metrics") if isinstance(message, StepStats)]
        assert [(each.num_prefill_tokens, each.num_decode_tokens) for each in stats] == [(3, 0), (0, 1), (0, 0)]
        assert stage.received("http") == []

    asyncio.run(run())


def test_a_probe_is_answered_with_the_state() -> None:
    async def run() -> None:
        stage = Stage()
        await stage.tell(make_admit(1, (1, 2, 3)))
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        await stage.scheduler.handle(Envelope("test", Probe(), reply))
        assert reply.result() == SchedulerState(num_steps=0, num_waiting=0, num_running=0, num_in_flight_steps=0)

    asyncio.run(run())


def test_every_message_that_may_come_late_is_taken() -> None:
    async def run() -> None:
        stage = Stage()
        await stage.tell(
            Abort(request_id=9, cause="disconnect"),
            GrammarReady(request_id=9, key="g"),
            GrammarFailed(request_id=9, key="h", failure=Failure(status=400, type="t", message="m")),
            PagesGranted(request_id=9, lease_id=9, pages=(), num_cached_tokens=0, num_available_pages=64),
            PagesDenied(request_id=9, num_available_pages=64),
            StepSettled(step_id=9, grown=(), denied=(), num_available_pages=64),
            PrefixMatched(matches=(PrefixMatch(9, 0, 0),)),
            StepDone(step_id=9, token_ids=()),
            StepFailed(step_id=9, reason="late"),
        )
        assert stage.received("http") == []

    asyncio.run(run())


def test_a_fatal_step_crashes_the_actor() -> None:
    async def run() -> None:
        stage = Stage()
        with pytest.raises(EngineError):
            await stage.tell(StepFailed(step_id=1, reason="device lost", is_fatal=True))

    asyncio.run(run())
