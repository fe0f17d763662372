"""A rank that does not lead, from the model that it loads to the signals that it gets: what `follow` is made of.

`be_rank` is for a process that was started to be one (`runtime.rank`). `follow_from` is for one that was started like rank 0,
on another machine or by torchrun, and finds out that it is not.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial

from runtime.clock import SystemClock
from runtime.config import Config
from runtime.errors import RankLost
from runtime.executor.build import build_order_worker
from runtime.executor.order_worker import OrderWorker
from runtime.loading.checkpoint import open_checkpoint
from runtime.parallel.collectives import join
from runtime.parallel.credentials import read_secret
from runtime.parallel.follow import Rank
from runtime.parallel.launched import find_leader
from runtime.parallel.place import Place
from runtime.parallel.processes import RankProcesses, started
from runtime.parallel.setup import RankSetup, rank_setups


async def be_rank(setup: RankSetup) -> None:
    """Until rank 0 ends it. Raises `CallboardError`."""
    _set_up_logging(setup)
    rank = Rank(setup, partial(_build, setup), SystemClock())
    await rank.join()
    await rank.run()


async def follow_from(place: Place, config: Config) -> None:
    """As `be_rank`, for a process that was started by hand or by torchrun, and the ranks that it has to start itself."""
    setup = _setup_of(place, config)
    _set_up_logging(setup)
    rank = Rank(setup, partial(_build, setup), SystemClock())
    async with started(rank_setups(setup, place.spawned)) as neighbours:
        await rank.join()
        _catch_signals(rank, is_launched=place.store is not None)
        watching = asyncio.create_task(_fail_with(neighbours, rank))
        try:
            await rank.run()
        finally:
            watching.cancel()


def _setup_of(place: Place, config: Config) -> RankSetup:
    """Where rank 0 is: by the flags or, after torchrun has started this, by its store. Raises `CallboardError`."""
    file = config.parallel.rank_secret_file
    if place.store is not None:
        host, port, secret = find_leader(place, file)
    else:
        assert file is not None, "resolve() asks for it with several machines"
        host, port, secret = place.host, place.port, read_secret(file)
    return RankSetup(config=config, rank=place.rank, num_ranks=place.num_ranks, host=host, port=port, secret=secret)


def _catch_signals(rank: Rank, *, is_launched: bool) -> None:
    """torchrun sends its signals to all ranks, rank 0 too. On a machine of its own this process is the one that gets them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if is_launched:
            signal.signal(number, signal.SIG_IGN)
        else:
            asyncio.get_running_loop().add_signal_handler(number, rank.ask_to_stop)


async def _fail_with(neighbours: RankProcesses, rank: Rank) -> None:
    """A rank of this machine that ends before it can say so to rank 0 ends all."""
    try:
        await neighbours.watch()
    except RankLost as error:
        rank.fail(error)


def _build(setup: RankSetup, port: int) -> OrderWorker:
    config = setup.config
    checkpoint = open_checkpoint(config.model)
    group = join(config.parallel, setup.host, port, setup.rank)
    return build_order_worker(config, checkpoint, group)


def _set_up_logging(setup: RankSetup) -> None:
    """Lines that say whose they are: all ranks of a machine write to one place."""
    logging.basicConfig(
        level=setup.config.metrics.log_level.upper(),
        format=f"[%(asctime)s] rank {setup.rank}: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
