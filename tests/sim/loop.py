"""An event loop on virtual time: when nothing is ready it jumps to the next timer, so hours pass in milliseconds.

When nothing is ready and no timer is set either, nothing will ever happen again: that is a deadlock and is raised at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")

THREAD_S = 0.005
"""What work on another thread takes."""


class SimulationDeadlock(Exception):
    """Nothing can happen any more, and the run is not done."""


class SimulationTooLong(Exception):
    """The run goes on without end: virtual time has passed the horizon."""


class _NoSelector:
    """Stands where the event loop waits for sockets; nothing ever comes, but time passes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise SimulationDeadlock(self._loop.describe())
        if timeout > 0:
            self._loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`describe` is asked for the state of the world when a run can not go on; `after_round` is called after each round."""

    def __init__(self, horizon_s: float = 1e6) -> None:
        super().__init__()
        self._selector = _NoSelector(self)
        self._now_s = 0.0
        self._horizon_s = horizon_s
        self.describe: Callable[[], str] = lambda: "nothing is ready and no timer is set"
        self.after_round: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self._now_s

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds
        if self._now_s > self._horizon_s:
            raise SimulationTooLong(self.describe())

    def run_in_executor(self, executor: Executor | None, func: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:  # type: ignore[override]
        """Run on this thread, since a simulation has no others, but a little later, as a thread would."""
        return self.create_task(_on_thread(partial(func, *args)))

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.after_round()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There is no other thread that would have to wake this one."""


async def _on_thread(work: Callable[[], _T]) -> _T:
    await asyncio.sleep(THREAD_S)
    return work()


class VirtualClock:
    """The `Clock` of actors in a simulation."""

    EPOCH_S = 1_700_000_000.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return self.EPOCH_S + self._loop.time()


def run(loop: VirtualLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` to its end and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        _cancel_all(loop)
        loop.close()


def _cancel_all(loop: VirtualLoop) -> None:
    """After a failed run there are tasks left; they end without a word."""
    loop.after_round = lambda: None
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(SimulationDeadlock):
            loop.run_until_complete(asyncio.wait(tasks))
