"""A rank that does not lead. As `python -m runtime.rank` it is one that a process of its machine has started, which says over
standard input what it is; `runtime.serve` on another machine or under torchrun is one too, and calls `be_rank`.

It ends with rank 0: told over the link, or because the link or the parent process is lost. The signals of a terminal or a
service reach it too, while rank 0 still lets requests finish, so it does not follow them.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
from functools import partial

import msgspec
import uvloop

from runtime.clock import SystemClock
from runtime.config import Config
from runtime.errors import CallboardError, RankLost
from runtime.executor.build import build_order_worker
from runtime.executor.order_worker import OrderWorker
from runtime.loading.checkpoint import open_checkpoint
from runtime.parallel.collectives import connect
from runtime.parallel.credentials import read_secret
from runtime.parallel.follow import Rank
from runtime.parallel.launched import find_leader
from runtime.parallel.leaving import leave_at_once
from runtime.parallel.place import Place
from runtime.parallel.processes import RankProcesses, started
from runtime.parallel.setup import RankSetup, rank_setups

log = logging.getLogger("callboard")

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Be the rank that the parent process says, until rank 0 ends it."""
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        setup = msgspec.json.decode(sys.stdin.buffer.read(), type=RankSetup)
    except msgspec.MsgspecError:  # it ended before it could say
        sys.exit("error: this process is for `python -m runtime.serve --tp-size` to start")
    _set_up_logging(setup)
    try:
        uvloop.run(be_rank(setup))
    except CallboardError as error:
        log.error("%s", error)
        leave_at_once(error.exit_code)
    leave_at_once(0)


def _set_up_logging(setup: RankSetup) -> None:
    """Lines that say whose they are: all ranks of a machine write to one place."""
    logging.basicConfig(
        level=setup.config.metrics.log_level.upper(),
        format=f"[%(asctime)s] rank {setup.rank}: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
        force=True,
    )


async def be_rank(setup: RankSetup) -> None:
    """Until rank 0 ends it. Raises `CallboardError`."""
    await Rank(setup, partial(_build, setup), SystemClock()).run()


async def follow_from(place: Place, config: Config) -> None:
    """As `be_rank`, for a process that was started by hand or by torchrun, and the ranks that it has to start itself."""
    setup = _setup_of(place, config)
    _set_up_logging(setup)
    rank = Rank(setup, partial(_build, setup), SystemClock())
    _catch_signals(rank, is_launched=place.store is not None)
    async with started(rank_setups(setup, place.spawned)) as neighbours:
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
    group = connect(config.parallel, setup.host, port, setup.rank)
    return build_order_worker(config, checkpoint, group)


def _die_with_parent() -> None:
    """Linux ends this process with the one that has started it, however that ends; elsewhere the loss of the link does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
