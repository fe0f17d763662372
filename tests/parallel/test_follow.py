"""The life of a rank, with a leader in the same process and a compute thread that the test plays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runtime.config import Config
from runtime.errors import CallboardError, EngineError, LoadError, RankLost
from runtime.executor.orders import ComputeLogits, Order
from runtime.parallel.credentials import credentials_of
from runtime.parallel.follow import Fail, Rank
from runtime.parallel.leader import Leader
from runtime.parallel.protocol import MeetRanks
from runtime.parallel.setup import RankSetup
from tests.actors.conftest import HandClock

SECRET = b"only the ranks know this"


class Computer:
    """A compute thread without a thread."""

    def __init__(self, num_expected: int = 0) -> None:
        self.orders: list[Order] = []
        self.is_stopped = False
        self.fail: Fail
        self.started = asyncio.Event()
        self.complete = asyncio.Event()
        self._num_expected = num_expected

    def start(self, post: Fail) -> None:
        self.fail = post
        self.started.set()

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        if len(self.orders) == self._num_expected:
            self.complete.set()

    def stop(self) -> None:
        self.is_stopped = True


Build = Callable[[int], Computer]


class Pair:
    """Rank 0's leader and rank 1, which has joined it."""

    def __init__(self, leader: Leader, life: asyncio.Task[None]) -> None:
        self.leader = leader
        self.life = life

    async def end_of_rank(self) -> BaseException | None:
        await asyncio.wait((self.life,), timeout=30)
        return self.life.exception()


def together(build: Build, scene: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        leader = Leader(2, credentials_of(SECRET), HandClock(), lambda: None)
        listener = socket.create_server(("127.0.0.1", 0))
        await leader.listen(listener)
        host, port = listener.getsockname()
        setup = RankSetup(config=Config(), rank=1, num_ranks=2, host=host, port=port, secret=SECRET)
        life = asyncio.create_task(live(Rank(setup, build, HandClock())))
        try:
            await asyncio.wait_for(leader.wait_joined(), 30)
            await scene(Pair(leader, life))
        finally:
            await leader.close()
            life.cancel()
            await asyncio.wait((life,))

    asyncio.run(run())


async def live(rank: Rank) -> None:
    await rank.join()
    await rank.run()


async def lost(leader: Leader) -> CallboardError:
    with pytest.raises(CallboardError) as caught:
        await asyncio.wait_for(leader.watch(), 30)
    return caught.value


def test_orders_are_computed_also_those_that_came_while_it_loaded() -> None:
    ports: list[int] = []
    computer = Computer(3)

    def build(port: int) -> Computer:
        ports.append(port)
        return computer

    async def scene(pair: Pair) -> None:
        orders = [ComputeLogits(num_rows=number) for number in (1, 2, 3)]
        pair.leader.tell(MeetRanks(port=4000))
        for order in orders:
            pair.leader.tell(order)
        await asyncio.wait_for(computer.complete.wait(), 30)
        assert ports == [4000]
        assert computer.orders == orders
        pair.leader.end()
        assert await pair.end_of_rank() is None
        assert computer.is_stopped

    together(build, scene)


def test_a_rank_that_can_not_load_says_why_and_ends() -> None:
    def build(port: int) -> Computer:
        raise LoadError("the model does not fit")

    async def scene(pair: Pair) -> None:
        pair.leader.tell(MeetRanks(port=4000))
        error = await lost(pair.leader)
        assert type(error) is LoadError
        assert str(error) == "rank 1: the model does not fit"
        assert isinstance(await pair.end_of_rank(), LoadError)

    together(build, scene)


def test_a_rank_that_can_not_compute_says_why_and_ends() -> None:
    computer = Computer()

    async def scene(pair: Pair) -> None:
        pair.leader.tell(MeetRanks(port=4000))
        await asyncio.wait_for(computer.started.wait(), 30)
        computer.fail(EngineError("out of memory"))
        assert str(await lost(pair.leader)) == "rank 1: out of memory"
        assert isinstance(await pair.end_of_rank(), EngineError)

    together(lambda port: computer, scene)


def test_a_rank_whose_computer_takes_no_orders_ends() -> None:
    class Broken(Computer):
        def submit(self, order: Order) -> None:
            raise RuntimeError("no thread")

    async def scene(pair: Pair) -> None:
        pair.leader.tell(MeetRanks(port=4000))
        pair.leader.tell(ComputeLogits(num_rows=1))
        assert "no thread" in str(await lost(pair.leader))
        assert isinstance(await pair.end_of_rank(), EngineError)

    together(lambda port: Broken(), scene)


def test_a_rank_ends_when_rank_0_is_lost_whatever_it_is_doing() -> None:
    async def scene(pair: Pair) -> None:
        await pair.leader.close()
        error = await pair.end_of_rank()
        assert isinstance(error, RankLost)
        assert str(error) == "rank 0 closed the connection"

    together(lambda port: Computer(), scene)
