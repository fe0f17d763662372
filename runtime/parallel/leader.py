"""Rank 0's ends of the links: lets the other ranks in, tells them what to compute, and notices when one is lost.

Receives what ranks report; sends orders. Invariant: only who proves to know the secret is let in, each rank once; the first
loss is final, and is told to everyone who waits in `watch` and to `on_lost`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial

from runtime.actors.handshake import Credentials, HandshakeFailed, accept
from runtime.actors.link import SILENCE_S, Link
from runtime.clock import Clock
from runtime.errors import CallboardError, ConfigError, EngineError, LoadError, RankLost, StartError
from runtime.executor.orders import Order
from runtime.parallel.protocol import EndRank, FromRank, MeetRanks, RankFailed, ToRank

log = logging.getLogger(__name__)

STARTING_SILENCE_S = 60.0
"""A rank that loads a model may keep its event loop waiting for long."""
STREAM_BYTES = 2**20
LAST_WORD_S = 0.5
"""How long the reason for a broken link is waited for: the end of the rank's process says more."""

_ERRORS = {error.exit_code: error for error in (ConfigError, LoadError, StartError, EngineError)}


class Leader:
    """Made on the event loop that it lives on."""

    def __init__(self, num_ranks: int, credentials: Credentials, clock: Clock, on_lost: Callable[[], None]) -> None:
        self._num_ranks = num_ranks
        self._credentials = credentials
        self._clock = clock
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._links: dict[int, Link[FromRank]] = {}
        self._all_joined = asyncio.Event()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._is_ending = False

    async def listen(self, listener: socket.socket) -> None:
        """Let ranks in that connect to `listener`."""
        self._server = await asyncio.start_server(self._meet, sock=listener, limit=STREAM_BYTES)

    async def wait_joined(self) -> None:
        """Until all ranks are there; nobody is let in after that."""
        await self._all_joined.wait()
        if self._server is not None:
            self._server.close()

    def missing(self) -> list[int]:
        """The ranks that have not joined."""
        return [rank for rank in range(1, self._num_ranks) if rank not in self._links]

    def send(self, message: Order | MeetRanks) -> None:
        """`tell` on any thread; what one thread sends keeps its order."""
        self._loop.call_soon_threadsafe(self.tell, message)

    def tell(self, message: ToRank) -> None:
        """Tell all ranks."""
        for link in self._links.values():
            link.send(message)

    def be_strict(self) -> None:
        """From now on all ranks are ready to compute, and have no reason to be silent for long."""
        for link in self._links.values():
            link.silence_s = SILENCE_S

    async def watch(self) -> None:
        """Returns only by raising the error of the first rank that failed, or `RankLost`."""
        await asyncio.shield(self._lost)

    def lose(self, error: CallboardError) -> None:
        """End it all: a rank is lost, and why."""
        if self._is_ending or self._lost.done():
            return
        self._lost.set_exception(error)
        self._lost.exception()  # marks it as seen: nobody may wait for it yet
        self._on_lost()

    def end(self) -> None:
        """Tell all ranks to end. Nothing is lost any more."""
        self._is_ending = True
        self.tell(EndRank())

    async def close(self) -> None:
        """Hang up; ranks that were not told to end take it for a loss. Idempotent."""
        self._is_ending = True
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(link.close() for link in self._links.values()))

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected: a rank, or a stranger, who is sent away."""
        try:
            name = await accept(reader, writer, self._credentials)
            rank = self._rank_called(name)
        except HandshakeFailed as error:
            log.warning("%s is no rank of ours: %s", writer.get_extra_info("peername"), error)
            writer.transport.abort()
            return
        self._links[rank] = link = Link(
            reader,
            writer,
            FromRank,
            on_message=partial(self._receive, rank),
            on_lost=partial(self._hear_no_more, rank),
            clock=self._clock,
            silence_s=STARTING_SILENCE_S,
        )
        link.start()
        log.info("Ranks: %d of %d are there", 1 + len(self._links), self._num_ranks)
        if not self.missing():
            self._all_joined.set()

    def _rank_called(self, name: str) -> int:
        rank = int(name) if name.isascii() and name.isdigit() else 0
        if rank not in range(1, self._num_ranks):
            raise HandshakeFailed(f"there is no rank {name!r} beside me and --tp-size {self._num_ranks}")
        if rank in self._links or self._is_ending:
            raise HandshakeFailed(f"rank {rank} is there already")
        return rank

    def _hear_no_more(self, rank: int, reason: str) -> None:
        self._loop.call_later(LAST_WORD_S, self.lose, RankLost(f"rank {rank} {reason}"))

    def _receive(self, rank: int, message: FromRank) -> None:
        if isinstance(message, RankFailed):
            self.lose(_ERRORS.get(message.exit_code, RankLost)(f"rank {rank}: {message.message}"))
        else:
            log.info("rank %d was told to stop, so all ranks are", rank)
            signal.raise_signal(signal.SIGTERM)
