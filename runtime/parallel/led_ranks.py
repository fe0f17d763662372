"""The ranks that share rank 0's model, as rank 0 sees them: met, loaded together, watched, ended.

Owns the leader and this rank's end of the group for collectives. Invariant: when a rank is lost, the others that this process
has started are killed and whoever waits in a collective here is set free, before anybody is told of the loss.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from runtime.actors.handshake import Credentials
from runtime.clock import Clock
from runtime.errors import EngineError, RankLost, StartError
from runtime.executor.build import Ranks
from runtime.layers.rank_group import RankGroup
from runtime.parallel.collectives import gather
from runtime.parallel.daemon_thread import call_in_thread
from runtime.parallel.leader import LAST_WORD_S, Leader
from runtime.parallel.listening import listen
from runtime.parallel.processes import RankProcesses
from runtime.parallel.protocol import MeetRanks
from runtime.parallel.setup import RankSetup

log = logging.getLogger(__name__)

JOIN_S = 120.0
"""For processes to start and import their libraries on a busy machine, or on another one to be started."""

_T = TypeVar("_T")


class LedRanks:
    """Used on one event loop."""

    def __init__(self, setup: RankSetup, credentials: Credentials, processes: RankProcesses, clock: Clock) -> None:
        """`setup`: that of rank 0."""
        self._setup = setup
        self._processes = processes
        self._leader = Leader(setup.num_ranks, credentials, clock, self._break_off)
        self._group: RankGroup | None = None
        self._watching: asyncio.Task[None] | None = None

    async def meet(self, listener: socket.socket) -> None:
        """Wait for all ranks. Raises `StartError`, or what the first rank that failed has failed of."""
        log.info("Ranks: waiting for %d beside this one", self._setup.num_ranks - 1)
        await self._leader.listen(listener)
        self._watching = asyncio.create_task(self._watch_processes())
        try:
            async with asyncio.timeout(JOIN_S):
                await self._unless_lost(self._leader.wait_joined())
        except TimeoutError:
            missing = ", ".join(map(str, self._leader.missing()))
            raise StartError(f"rank {missing} has not come within {JOIN_S:g} s") from None

    async def load(self, build: Callable[[Ranks], _T]) -> _T:
        """What `build` makes, on a thread, while the other ranks load their shares. Raises as `build` and `watch` do."""
        async with self.explaining():
            loaded = await self._unless_lost(call_in_thread(partial(self._load, build), "load"))
        self._leader.be_strict()
        return loaded

    async def watch(self) -> None:
        """Returns only by raising `RankLost`, or the error of the rank that failed."""
        await self._leader.watch()

    @asynccontextmanager
    async def explaining(self) -> AsyncIterator[None]:
        """If the engine is lost inside of it because a rank is, the rank's own reason is raised."""
        try:
            yield
        except EngineError:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * LAST_WORD_S):  # a collective fails before it is known why
                    await self._leader.watch()
            raise

    def end(self) -> None:
        """Tell all ranks to end; that is no loss."""
        self._leader.end()

    async def close(self) -> None:
        """Hang up. Ranks that were not told to end take it for a loss, and end too."""
        await self._leader.close()
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    def _load(self, build: Callable[[Ranks], _T]) -> _T:
        """On a thread."""
        listener = listen(self._setup.host, 0)
        self._leader.send(MeetRanks(port=listener.getsockname()[1]))
        self._group = gather(self._setup.config.parallel, listener)
        return build(Ranks(self._group, self._leader.send))

    async def _watch_processes(self) -> None:
        try:
            await self._processes.watch()
        except RankLost as error:
            self._leader.lose(error)

    async def _unless_lost(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, unless a rank is lost before."""
        task, lost = asyncio.create_task(work), asyncio.create_task(self._leader.watch())
        try:
            await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
            return await task
        finally:
            for each in (task, lost):
                each.cancel()
            await asyncio.wait((task, lost))

    def _break_off(self) -> None:
        self._processes.kill()
        if self._group is not None:
            self._group.abort()
