"""A thread with an event loop of its own, to which other threads hand coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

from runtime.errors import EngineError

_T = TypeVar("_T")


class LoopThread:
    """Runs from its creation to `stop`. A daemon: a program that forgets to stop it can still end."""

    def __init__(self, name: str) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start `work` on the loop. Raises `EngineError` after `stop`."""
        if not self.is_running:
            work.close()
            raise EngineError("the engine is shut down")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """`work`'s result; whatever breaks the waiting off, as Ctrl-C does, cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def stop(self) -> None:
        """Cancel what still runs and end the thread; idempotent."""
        if self.is_running:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # its exit cancels the tasks that are left
            runner.get_loop().run_forever()
