"""The rank processes that this process has started, from their start to their end.

Their configuration and the secret go over standard input, which no other user can read. Their log goes where this process's
goes. Invariant: none is left after `stop`, and if this process is killed before, they die with it (`runtime.rank`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import msgspec

from runtime.errors import RankLost, StartError
from runtime.parallel.setup import RankSetup

MODULE = "runtime.rank"
END_S = 10.0
"""For ranks that were told to end, and have nothing left to do."""


class RankProcesses:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._processes: dict[int, Process] = {}

    async def start(self, setups: Iterable[RankSetup]) -> None:
        """Start one process for each. Raises `StartError`; `stop` is due then too."""
        for setup in setups:
            try:
                self._processes[setup.rank] = await _start(setup)
            except OSError as error:
                raise StartError(f"rank {setup.rank} can not be started: {error}") from None

    async def watch(self) -> None:
        """Until all processes have ended. Raises `RankLost` at the first that was not told to: then it ends with 0."""
        await asyncio.gather(*(_watch(rank, process) for rank, process in self._processes.items()))

    def kill(self) -> None:
        """SIGKILL, which also a stopped process gets."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()

    async def stop(self, deadline_s: float) -> None:
        """Wait until all have ended, at most so long; then kill those that are left."""
        waits = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=deadline_s)
        if late:
            self.kill()
            await asyncio.wait(late)


@asynccontextmanager
async def started(setups: Iterable[RankSetup]) -> AsyncIterator[RankProcesses]:
    """Processes that have ended when this is left: of themselves, unless the body raises. Raises `StartError`."""
    processes = RankProcesses()
    try:
        await processes.start(setups)
        yield processes
        await processes.stop(END_S)
    finally:
        processes.kill()
        await processes.stop(END_S)


async def _watch(rank: int, process: Process) -> None:
    code = await process.wait()
    if code != 0:
        raise RankLost(f"rank {rank} {_ending(code)}")


async def _start(setup: RankSetup) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, stdin=PIPE, stdout=DEVNULL, env=os.environ | {"PYTHONPATH": _search_path()}
    )
    assert process.stdin is not None
    with suppress(OSError, RuntimeError):  # uvloop's word for a pipe that is closed: it has ended, and `watch` says how
        process.stdin.write(msgspec.json.encode(setup))
        process.stdin.close()
    return process


def _search_path() -> str:
    """Where this process found its modules, so that the others find the same."""
    return os.pathsep.join(os.path.abspath(folder) for folder in sys.path)


def _ending(code: int) -> str:
    """As in "rank 1 …"."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"has ended with exit code {code}; the log above may say why"
