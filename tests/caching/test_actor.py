"""The cache actor under a real supervisor, beside an inbox in the scheduler's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from runtime.actors.actor import Actor, Ref, receives
from runtime.actors.supervisor import Group, Supervisor
from runtime.caching.actor import Cache
from runtime.clock import SystemClock
from runtime.messages import (
    CacheFlushed,
    FlushCache,
    Grow,
    InspectPool,
    Message,
    PagesDenied,
    PagesGranted,
    PoolState,
    PrefixMatch,
    PrefixMatched,
    Publish,
    Release,
    ReservePages,
    SettleStep,
    StepSettled,
    UnwatchPrefix,
    WatchPrefix,
)
from tests.caching.conftest import PAGE_SIZE, new_cache, tokens

NUM_PAGES = 6
DEADLINE_S = 10.0


class Inbox(Actor):
    """Keeps what the scheduler would be told."""

    def __init__(self, told: asyncio.Queue[Message]) -> None:
        self._told = told

    @receives(PagesGranted)
    async def pages_granted(self, message: PagesGranted) -> None:
        self._told.put_nowait(message)

    @receives(PagesDenied)
    async def pages_denied(self, message: PagesDenied) -> None:
        self._told.put_nowait(message)

    @receives(StepSettled)
    async def step_settled(self, message: StepSettled) -> None:
        self._told.put_nowait(message)

    @receives(PrefixMatched)
    async def prefix_matched(self, message: PrefixMatched) -> None:
        self._told.put_nowait(message)


class Engine:
    """An engine group of a cache and an inbox."""

    def __init__(self) -> None:
        self.supervisor = Supervisor(SystemClock())
        self.cache: Ref = self.supervisor.ref("scheduler", "cache")
        self.told: asyncio.Queue[Message] = asyncio.Queue()
        self.restarted = asyncio.Event()
        factories: dict[str, Callable[[], Actor]] = {
            "scheduler": lambda: Inbox(self.told),
            "cache": lambda: Cache(new_cache(NUM_PAGES), self.supervisor.ref("cache", "scheduler")),
        }
        self.supervisor.add(Group("engine", factories, on_crash=lambda crash: self.restarted.set()))

    async def answer(self, *messages: Message) -> Message:
        """What the scheduler is told next, after it has sent `messages` at once."""
        for message in messages:
            self.cache.tell(message)
        return await asyncio.wait_for(self.told.get(), DEADLINE_S)

    async def state(self) -> PoolState:
        state: PoolState = await self.cache.ask(InspectPool(), DEADLINE_S)
        return state


@asynccontextmanager
async def running() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.supervisor.start()
    try:
        yield engine
    finally:
        await engine.supervisor.stop()


def run(test: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running() as engine:
            await test(engine)

    asyncio.run(main())


def reserve(text: str, request_id: int = 1) -> ReservePages:
    return ReservePages(request_id=request_id, token_ids=tokens(text))


def test_pages_are_granted_and_denied() -> None:
    async def test(engine: Engine) -> None:
        granted = await engine.answer(reserve("aabbc"))
        assert isinstance(granted, PagesGranted)
        assert (granted.request_id, len(granted.pages), granted.num_available_pages) == (1, 3, 3)
        denied = await engine.answer(reserve("ddeeffg", request_id=2))
        assert denied == PagesDenied(request_id=2, num_available_pages=3)

    run(test)


def test_a_step_is_settled() -> None:
    async def test(engine: Engine) -> None:
        first = await engine.answer(reserve("aabbc"))
        second = await engine.answer(reserve("x"))
        assert isinstance(first, PagesGranted)
        assert isinstance(second, PagesGranted)
        settled = await engine.answer(
            SettleStep(
                step_id=2,
                retired_step=1,
                publishes=(Publish(first.lease_id, 2),),
                releases=(Release(first.lease_id, tokens("aabbc"), 2),),
                grows=(Grow(second.lease_id, 1), Grow(77, 1)),
            )
        )
        assert isinstance(settled, StepSettled)
        assert settled.step_id == 2
        assert [(grown.lease_id, len(grown.pages)) for grown in settled.grown] == [(second.lease_id, 1)]
        assert settled.denied == (77,)
        state = await engine.state()
        assert state == PoolState(
            num_pages=NUM_PAGES,
            num_free_pages=1,
            num_cached_pages=2,
            num_leased_pages=2,
            num_fenced_pages=1,
            num_leases=1,
            page_size=PAGE_SIZE,
        )

    run(test)


def test_answers_keep_the_order_of_the_questions() -> None:
    async def test(engine: Engine) -> None:
        told = [await engine.answer(*(reserve("x", request_id) for request_id in range(NUM_PAGES + 1)))]
        told += [await engine.answer() for _ in range(NUM_PAGES)]
        kinds = [type(message) for message in told]
        assert kinds == [PagesGranted] * NUM_PAGES + [PagesDenied]
        assert [message.request_id for message in told if isinstance(message, PagesGranted)] == list(range(NUM_PAGES))

    run(test)


def test_matches_are_told_once_per_batch_and_only_changes() -> None:
    async def test(engine: Engine) -> None:
        watches = [WatchPrefix(request_id=i, token_ids=tokens(text)) for i, text in enumerate(("aabbc", "zzz"))]
        assert await engine.answer(*watches) == PrefixMatched(matches=(PrefixMatch(0, 0, 0), PrefixMatch(1, 0, 1)))
        granted = await engine.answer(reserve("aabbc"))
        assert isinstance(granted, PagesGranted)
        steps = [
            SettleStep(step_id=i, retired_step=0, publishes=(Publish(granted.lease_id, num_tokens),))
            for i, num_tokens in ((1, 2), (2, 4))
        ]
        assert isinstance(await engine.answer(*steps), StepSettled)
        assert isinstance(await engine.answer(), StepSettled)
        assert await engine.answer() == PrefixMatched(matches=(PrefixMatch(0, 4, 0),))

    run(test)


def test_nothing_is_told_of_a_request_that_left_the_queue() -> None:
    async def test(engine: Engine) -> None:
        await engine.answer(WatchPrefix(request_id=1, token_ids=tokens("aabbc")))
        granted = await engine.answer(UnwatchPrefix(request_id=1), reserve("aabbc"))
        assert isinstance(granted, PagesGranted)
        publish = SettleStep(step_id=1, retired_step=0, publishes=(Publish(granted.lease_id, 4),))
        assert isinstance(await engine.answer(publish), StepSettled)
        assert isinstance(await engine.answer(reserve("x")), PagesGranted)

    run(test)


def test_flush_tells_what_is_left() -> None:
    async def test(engine: Engine) -> None:
        first = await engine.answer(reserve("aabbc"))
        assert isinstance(first, PagesGranted)
        await engine.answer(reserve("x"))
        release = Release(first.lease_id, tokens("aabbc"), 0)
        await engine.answer(SettleStep(step_id=1, retired_step=0, releases=(release,)))
        flushed = await engine.cache.ask(FlushCache(), DEADLINE_S)
        assert flushed == CacheFlushed(num_freed_pages=2, num_leases=1)
        assert (await engine.state()).num_free_pages == NUM_PAGES - 1

    run(test)


def test_a_broken_contract_restarts_with_an_empty_cache() -> None:
    async def test(engine: Engine) -> None:
        granted = await engine.answer(reserve("aabbc"))
        assert isinstance(granted, PagesGranted)
        wrong = Release(granted.lease_id, tokens("zz"), 0)
        engine.cache.tell(SettleStep(step_id=1, retired_step=0, releases=(wrong,)))
        await asyncio.wait_for(engine.restarted.wait(), DEADLINE_S)
        state = await engine.state()
        assert (state.num_free_pages, state.num_leases) == (NUM_PAGES, 0)

    run(test)
