"""Threads for programs that are not async. A program that waits for a value does not count: another one starts meanwhile.

A program that reads nothing records itself in microseconds and gives its thread back, so a batch of such programs needs few
threads, whereas each program that is waiting in the middle holds one.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

MAX_ACTIVE = 64


class ProgramThreads:
    """At most `max_threads` threads, of which at most `MAX_ACTIVE` start something that is not waiting."""

    def __init__(self, max_threads: int) -> None:
        self._executor = ThreadPoolExecutor(max_threads, thread_name_prefix="frontend-program")
        self._lock = threading.Lock()
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._num_active = 0

    def submit(self, body: Callable[[], Any]) -> Future[Any]:
        """Call it on a thread, in a copy of this context, as soon as there is one."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()
        with self._lock:
            self._queue.append((future, partial(context.run, body)))
        self._start_more()
        return future

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """To be entered by a body while it waits."""
        self._leave()
        try:
            yield
        finally:
            with self._lock:
                self._num_active += 1

    def close(self) -> None:
        """Bodies that have not begun never will."""
        with self._lock:
            self._queue.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start_more(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._num_active >= MAX_ACTIVE:
                    return
                self._num_active += 1
                future, body = self._queue.popleft()
            self._executor.submit(body).add_done_callback(partial(self._ended, future))

    def _ended(self, future: Future[Any], ended: Future[Any]) -> None:
        error = ended.exception()
        if error is None:
            future.set_result(ended.result())
        else:
            future.set_exception(error)
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._num_active -= 1
        self._start_more()
