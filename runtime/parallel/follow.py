"""The life of a rank that does not lead: it finds rank 0, loads its share of the model, and computes what it is told to.

Owns its end of the link, the follower and its compute thread. Invariant: it ends when rank 0 ends it or is lost, whatever its
threads do, and rank 0 is told why if it ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from runtime.actors.handshake import HandshakeFailed, introduce
from runtime.actors.link import Link
from runtime.actors.supervisor import Group, Supervisor
from runtime.clock import Clock
from runtime.errors import CallboardError, EngineError, RankLost
from runtime.executor.follower import Computer, Follower
from runtime.parallel.credentials import credentials_of
from runtime.parallel.daemon_thread import call_in_thread
from runtime.parallel.leader import STREAM_BYTES
from runtime.parallel.protocol import EndRank, MeetRanks, RankFailed, StopAsked, ToRank
from runtime.parallel.setup import RankSetup

log = logging.getLogger(__name__)

FOLLOWER = "follower"
LINK = "link"
SILENCE_S = 30.0
"""A rank 0 that dies closes the link. One that is silent may be at a very long prompt, and must not be lost for that."""
CONNECT_S = 120.0
RETRY_S = 0.5
HANDSHAKE_S = 60.0
"""Rank 0 may still be importing its libraries."""

Fail = Callable[[EngineError], None]


class ComputeThread(Computer, Protocol):
    def start(self, post: Fail) -> None:
        """Begin to compute; `post` is called on the running loop with what ends it."""
        ...

    def stop(self) -> None:
        """Finish the order in hand and end."""
        ...


Build = Callable[[int], ComputeThread]
"""Loads this rank's share, given the port at which the group for collectives meets. Runs on a thread."""


class Rank:
    """Made on the event loop that it lives on. `join` begins its life, `run` is the rest of it."""

    def __init__(self, setup: RankSetup, build: Build, clock: Clock) -> None:
        self._setup = setup
        self._build = build
        self._clock = clock
        self._supervisor = Supervisor(clock)
        self._orders = self._supervisor.ref(LINK, FOLLOWER)
        loop = asyncio.get_running_loop()
        self._group_port: asyncio.Future[int] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._link: Link[ToRank] | None = None
        self._computer: ComputeThread | None = None

    async def join(self) -> None:
        """Find rank 0. Raises `RankLost` if it is not there in time, or does not know this rank."""
        setup = self._setup
        try:
            reader, writer = await self._reach()
            await introduce(reader, writer, credentials_of(setup.secret), str(setup.rank), HANDSHAKE_S)
        except (HandshakeFailed, TimeoutError) as error:
            raise RankLost(f"rank 0 at {setup.host}:{setup.port} can not be joined: {error or 'it is not there'}") from None
        self._link = Link(
            reader,
            writer,
            ToRank,
            on_message=self._receive,
            on_lost=lambda reason: self.fail(RankLost(f"rank 0 {reason}")),
            clock=self._clock,
            silence_s=SILENCE_S,
        )
        self._link.start()

    async def run(self) -> None:
        """Until rank 0 ends this rank. Raises `CallboardError`: what failed here, or `RankLost`."""
        assert self._link is not None, "join comes first"
        link = self._link
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait((work, self._ended), return_when=asyncio.FIRST_COMPLETED)
            (self._ended if self._ended.done() else work).result()
        except CallboardError as error:
            link.send(RankFailed(message=str(error), exit_code=error.exit_code))
            raise
        finally:
            work.cancel()
            await asyncio.wait((work,))
            await link.close()
        if self._computer is not None:
            self._computer.stop()

    def fail(self, error: CallboardError) -> None:
        """End this rank, because something in it does not go on."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def ask_to_stop(self) -> None:
        """Have rank 0 end all ranks, when its requests have ended."""
        if self._link is not None:
            self._link.send(StopAsked())

    async def _work(self) -> None:
        """Load this rank's share, then compute; ends only by an error."""
        port = await self._group_port
        self._computer = computer = await call_in_thread(partial(self._build, port), "build")
        computer.start(self.fail)
        self._supervisor.add(Group(FOLLOWER, {FOLLOWER: lambda: Follower(computer)}, max_restarts=0))
        await self._supervisor.start()
        try:
            await self._supervisor.wait()
        finally:
            await self._supervisor.stop()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; rank 0 on another machine may be started later than this one. Raises `TimeoutError`."""
        async with asyncio.timeout(CONNECT_S):
            while True:
                try:
                    return await asyncio.open_connection(self._setup.host, self._setup.port, limit=STREAM_BYTES)
                except OSError as error:
                    log.debug("rank 0 is not there yet: %s", error)
                await asyncio.sleep(RETRY_S)

    def _receive(self, message: ToRank) -> None:
        if isinstance(message, EndRank):
            if not self._ended.done():
                self._ended.set_result(None)
        elif isinstance(message, MeetRanks):
            self._group_port.set_result(message.port)
        else:
            self._orders.tell(message)
