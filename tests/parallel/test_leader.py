"""Rank 0's ends of the links, with ranks that the test plays, over loopback. Nobody's clock moves by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from runtime.actors.handshake import HandshakeFailed, introduce
from runtime.actors.link import Link
from runtime.errors import CallboardError, ConfigError, LoadError, RankLost
from runtime.executor.orders import ComputeLogits
from runtime.parallel.credentials import credentials_of
from runtime.parallel.leader import Leader
from runtime.parallel.protocol import EndRank, MeetRanks, RankFailed, ToRank
from tests.actors.conftest import HandClock

SECRET = b"only the ranks know this"
CREDENTIALS = credentials_of(SECRET)


class Played:
    """A rank on the other end of a link."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Any] = []
        self.losses: list[str] = []
        self.changed = asyncio.Event()
        self.link: Link[ToRank]

    async def join(self, name: str, secret: bytes = SECRET) -> Played:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await introduce(reader, writer, credentials_of(secret), name, 30)
        except HandshakeFailed:
            writer.transport.abort()
            raise
        self.link = Link(reader, writer, ToRank, on_message=self._receive, on_lost=self._lose, clock=HandClock())
        self.link.start()
        return self

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 30)

    def _receive(self, message: Any) -> None:
        self.received.append(message)
        self.changed.set()

    def _lose(self, reason: str) -> None:
        self.losses.append(reason)
        self.changed.set()


class Stage:
    """A leader that listens."""

    def __init__(self, num_ranks: int) -> None:
        self.num_break_offs = 0
        self.leader = Leader(num_ranks, CREDENTIALS, HandClock(), self._break_off)
        self.port = 0
        self.played: list[Played] = []

    async def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await self.leader.listen(listener)

    async def rank(self, name: str, secret: bytes = SECRET) -> Played:
        played = await Played(self.port).join(name, secret)
        self.played.append(played)
        return played

    def _break_off(self) -> None:
        self.num_break_offs += 1


def on_stage(num_ranks: int, scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        stage = Stage(num_ranks)
        await stage.open()
        try:
            await scene(stage)
        finally:
            await stage.leader.close()
            for played in stage.played:
                await played.link.close()

    asyncio.run(run())


async def loss(stage: Stage) -> CallboardError:
    with pytest.raises(CallboardError) as caught:
        await asyncio.wait_for(stage.leader.watch(), 30)
    return caught.value


def test_orders_reach_all_ranks_in_their_order_also_from_another_thread() -> None:
    async def scene(stage: Stage) -> None:
        ranks = [await stage.rank("2"), await stage.rank("1")]
        await stage.leader.wait_joined()
        orders = [ComputeLogits(num_rows=number) for number in range(50)]

        def send_all() -> None:
            stage.leader.send(MeetRanks(port=7))
            for order in orders:
                stage.leader.send(order)

        await asyncio.to_thread(send_all)
        for rank in ranks:
            await rank.until(lambda rank=rank: len(rank.received) == 51)  # type: ignore[misc]
            assert rank.received == [MeetRanks(port=7), *orders]

    on_stage(3, scene)


def test_strangers_are_sent_away_and_the_ranks_still_come() -> None:
    async def scene(stage: Stage) -> None:
        _, silent = await asyncio.open_connection("127.0.0.1", stage.port)
        _, scanner = await asyncio.open_connection("127.0.0.1", stage.port)
        scanner.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(1000))
        for name, secret in (("1", b"a guess"), ("0", SECRET), ("3", SECRET), ("one", SECRET), ("", SECRET)):
            with pytest.raises(HandshakeFailed):
                await refused(stage, name, secret)
        first = await stage.rank("1")
        with pytest.raises(HandshakeFailed):
            await refused(stage, "1", SECRET)
        assert stage.leader.missing() == [2]
        await stage.rank("2")
        await stage.leader.wait_joined()
        assert first.link.is_open
        assert stage.num_break_offs == 0
        for writer in (silent, scanner):
            writer.transport.abort()

    on_stage(3, scene)


async def refused(stage: Stage, name: str, secret: bytes) -> None:
    """A caller that is who it says, but should not be there, is hung up on after the handshake."""
    played = await Played(stage.port).join(name, secret)
    await played.until(lambda: bool(played.losses))
    raise HandshakeFailed("it was hung up on")


def test_nobody_is_let_in_after_the_ranks_are_there() -> None:
    async def scene(stage: Stage) -> None:
        await stage.rank("1")
        await stage.leader.wait_joined()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", stage.port)

    on_stage(2, scene)


def test_a_rank_that_hangs_up_is_lost_and_everybody_is_told_once() -> None:
    async def scene(stage: Stage) -> None:
        first, second = await stage.rank("1"), await stage.rank("2")
        await first.link.close()
        error = await loss(stage)
        assert isinstance(error, RankLost)
        assert str(error) == "rank 1 closed the connection"
        await second.link.close()
        assert str(await loss(stage)) == str(error)
        assert stage.num_break_offs == 1

    on_stage(3, scene)


@pytest.mark.parametrize(("exit_code", "kind"), [(2, ConfigError), (3, LoadError), (6, RankLost), (77, RankLost)])
def test_what_a_rank_says_of_its_end_is_said_in_its_name(exit_code: int, kind: type[CallboardError]) -> None:
    async def scene(stage: Stage) -> None:
        rank = await stage.rank("1")
        rank.link.send(RankFailed(message="it does not fit", exit_code=exit_code))
        await rank.link.close()
        error = await loss(stage)
        assert type(error) is kind
        assert str(error) == "rank 1: it does not fit"

    on_stage(2, scene)


def test_ranks_that_are_told_to_end_are_not_lost() -> None:
    async def scene(stage: Stage) -> None:
        rank = await stage.rank("1")
        stage.leader.end()
        await rank.until(lambda: EndRank() in rank.received)
        await rank.link.close()
        await stage.leader.close()
        stage.leader.lose(RankLost("too late"))
        assert stage.num_break_offs == 0
        assert rank.losses == []

    on_stage(2, scene)
