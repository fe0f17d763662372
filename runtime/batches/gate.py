"""The gate that lines of batches pass one by one: they take what interactive requests leave.

Owns the count of open lines. Invariant: no line passes while there are `limit` open, where the limit shrinks by one for each
interactive request that is open, but never below one, so that a batch on a busy server goes on, slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from runtime.batch_port import Load

POLL_S = 0.1
"""How long a change of the load may go unseen. While no line waits nothing is polled."""


class Gate:
    """`max_open` bounds the open lines of all batches; `load` counts sequences, those of lines too."""

    def __init__(self, load: Callable[[], Load], max_open: int | None = None) -> None:
        self._load = load
        self._max_open = max_open
        self._turn = asyncio.Lock()
        self._has_left = asyncio.Event()
        self.num_open = 0

    @property
    def limit(self) -> int:
        load = self._load()
        most = max(1, load.num_slots // 2) if self._max_open is None else self._max_open
        num_interactive = max(0, load.num_open - self.num_open)
        return max(1, min(most, load.num_slots - num_interactive))

    async def enter(self) -> None:
        """Wait, in the order of the calls, until a line may be opened. Each `enter` needs a `leave`."""
        async with self._turn:
            while self.num_open >= self.limit:
                self._has_left.clear()
                # Not wait_for: until Python 3.12 it can swallow a cancellation that comes together with what it waits for.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._has_left.wait()
            self.num_open += 1

    def leave(self) -> None:
        """A line has ended."""
        self.num_open -= 1
        self._has_left.set()
