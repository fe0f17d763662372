"""Rank 0's process brings the other ranks up, and takes them down again whatever happens between.

Owns the processes that it starts and the socket on which they find it. Invariant: when `leading` is left none of the processes
is there, and no rank on another machine goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from runtime.clock import SystemClock
from runtime.config import Config
from runtime.parallel.credentials import credentials_of, new_secret, read_secret
from runtime.parallel.listening import listen
from runtime.parallel.place import Place
from runtime.parallel.processes import started
from runtime.parallel.setup import RankSetup, rank_setups

if TYPE_CHECKING:
    from runtime.parallel.led_ranks import LedRanks


@asynccontextmanager
async def leading(config: Config, place: Place) -> AsyncIterator[LedRanks]:
    """All ranks are there. Raises `CallboardError`; if the body raises, the other ranks are killed."""
    with listen(place.host, place.port) as listener:
        setup = _own_setup(config, place, listener.getsockname()[1])
        async with started(rank_setups(setup, place.spawned)) as processes:
            from runtime.parallel.led_ranks import LedRanks  # PyTorch takes seconds to import: the other ranks do it meanwhile

            ranks = LedRanks(setup, credentials_of(setup.secret), processes, SystemClock())
            try:
                with _findable(place, setup):
                    await ranks.meet(listener)
                async with ranks.explaining():
                    yield ranks
                ranks.end()
            finally:
                await ranks.close()


def _own_setup(config: Config, place: Place, port: int) -> RankSetup:
    file = config.parallel.rank_secret_file
    secret = new_secret() if file is None else read_secret(file)
    return RankSetup(config=config, rank=0, num_ranks=place.num_ranks, host=place.host, port=port, secret=secret)


def _findable(place: Place, setup: RankSetup) -> AbstractContextManager[None]:
    """Ranks that others have started have to find out where to come."""
    if place.store is None:
        return nullcontext()
    from runtime.parallel.launched import published

    return published(place, setup.port, setup.secret, setup.config.parallel.rank_secret_file)
