"""The one event loop of the process, on a thread of its own: all programs' requests run there, whatever thread records them.

It starts when it is first needed and ends with the process, after it has closed what was handed to it with `close_at_end`.
No code of a program runs on it but that of async programs, so it never waits for a program.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from frontend.errors import ProgramError

T = TypeVar("T")

END_DEADLINE_S = 5.0


class LoopThread:
    """Owns the thread and the loop. All methods but `close_at_end`'s result may be called from any thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._process_id = os.getpid()
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._thread = threading.Thread(target=self._run, name="frontend-loop", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call it on the loop, soon."""
        self.loop.call_soon_threadsafe(callback, *arguments)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result; the calling thread waits. If the wait is interrupted the coroutine is cancelled."""
        self.check_may_wait()
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()  # of no effect if it is done

    def check_may_wait(self) -> None:
        """Raises `ProgramError` on the loop's own thread, where waiting would never end."""
        if self.is_current:
            raise ProgramError("an async program that runs on the shared loop must not wait: use `await` to read values")

    async def relayed(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items of a generator that belongs on this loop, for a caller on another one."""
        try:
            while (item := await asyncio.wrap_future(self.submit(_next(items)))) is not _NO_MORE:
                yield cast(T, item)
        finally:
            await asyncio.wrap_future(self.submit(items.aclose()))

    def close_at_end(self, closer: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have `closer` awaited when the process ends. Returns a function that takes it back."""
        self._closers.append(closer)
        return functools.partial(self._closers.remove, closer)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _end(self) -> None:
        if os.getpid() != self._process_id:  # a forked child inherits what is to be done at the end, but not the thread
            return
        asyncio.run_coroutine_threadsafe(self._close_all(), self.loop).result(END_DEADLINE_S)
        self.call(self.loop.stop)
        self._thread.join(END_DEADLINE_S)
        self.loop.close()

    async def _close_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for closer in list(self._closers):
            await closer()


_NO_MORE = object()


async def _next(items: AsyncGenerator[T, None]) -> T | object:
    return await anext(items, _NO_MORE)


def shared_loop() -> LoopThread:
    """The loop of this process; a forked child has its own."""
    with _starting:
        return _loop_of(os.getpid())


_starting = threading.Lock()


@functools.lru_cache(maxsize=1)
def _loop_of(process_id: int) -> LoopThread:
    return LoopThread()
