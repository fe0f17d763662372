"""Executes what one program records, in order, as a task on the shared loop.

Threads hand in expressions with `submit`, which never waits, and wait for futures. Text alone wakes nobody: it is executed
with the next expression that asks the model, or when somebody waits. What fails ends the program: what is queued is dropped,
and every waiter wakes. The invariant: a future that was handed out is always set, and a variable is waited for exactly
while an expression that sets it is queued or running.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from frontend import commands, ir
from frontend.backend import Backend, Usage
from frontend.errors import Cancelled
from frontend.execution import BeforeFirst, Execution
from frontend.loop import LoopThread
from frontend.record import Record
from frontend.sampling import Sampling

log = logging.getLogger("frontend")

Queued = ir.Expr | commands.Command


class Interpreter:
    """`before_first` is awaited with the first prompt before that goes to the backend: `run_batch` warms the prefix there."""

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        loop: LoopThread,
        *,
        is_streaming: bool = False,
        num_api_spec_tokens: int | None = None,
        before_first: BeforeFirst | None = None,
    ) -> None:
        self.backend = backend
        self.sampling = sampling
        self.loop = loop
        self.is_streaming = is_streaming
        self.execution = Execution(
            backend,
            sampling,
            is_streaming=is_streaming,
            num_api_spec_tokens=num_api_spec_tokens,
            before_first=before_first,
            on_set=self._set,
            on_change=self._changed,
        )
        self.failure: BaseException | None = None
        self.is_finished = False
        """Nothing will be said any more."""
        self._num_api_spec_tokens = num_api_spec_tokens
        self._lock = threading.Lock()
        self._queue: deque[Queued] = deque()
        self._num_left = 0
        """Of what was submitted, less marks: queued and being executed."""
        self._unset: dict[Any, deque[Future[None]]] = {}
        self._is_awake = False
        self._task: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._stop_cause: BaseException | None = None
        self._listeners: list[Callable[[], object]] = []
        self._children: list[Interpreter] = []

    @property
    def record(self) -> Record:
        """What was said so far."""
        return self.execution.record

    # -- from any thread -------------------------------------------------------------------------------------------------

    def submit(self, item: Queued) -> None:
        """Execute it after all that was submitted before. After a failure it is dropped."""
        with self._lock:
            for name in ir.names_set_by(item) if isinstance(item, ir.Expr) else ():
                self._unset.setdefault(name, deque()).append(self._new_future())
            if self.failure is None:
                self._queue.append(item)
                self._num_left += not isinstance(item, commands.Mark)
            elif isinstance(item, commands.Command):
                item.abandon(self.failure)
        if self.is_streaming or isinstance(item, commands.Command) or ir.asks_the_model(item):
            self._wake()

    def settled(self) -> Future[None]:
        """Is set when all that was submitted so far has been executed, or the program has failed."""
        marker = commands.Mark()
        with self._lock:
            is_idle = self.failure is not None or not (self._num_left or self._stop_cause)
        if is_idle:
            marker.done.set_result(None)
        else:
            self.submit(marker)
        return marker.done

    def until_set(self, name: object) -> Future[None] | None:
        """Is set when the last submitted expression that sets the variable has been executed, or the program has failed."""
        with self._lock:
            unset = self._unset.get(name)
            future = unset[-1] if unset else None
        if future is not None:
            self._wake()
        return future

    def is_unset(self, name: object) -> bool:
        """Whether an expression that sets the variable is still to be executed; after a failure it never will be."""
        with self._lock:
            return bool(self._unset.get(name))

    def end(self) -> None:
        """Nothing more will be submitted, here and to the forks."""
        for interpreter in (*self._children, self):
            interpreter.submit(commands.End())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The program's function ends here: what it raised ends the program."""
        if error is None:
            self.end()
        else:
            self.stop(error)

    def stop(self, cause: BaseException) -> None:
        """End the program and its forks now, with `cause` as their failure. Requests that are running are aborted."""
        for child in self._children:
            child.stop(cause)
        with self._lock:
            self._stop_cause = self._stop_cause or cause
        self.loop.call(self._stop)

    @contextmanager
    def calling(self, listener: Callable[[], object]) -> Iterator[None]:
        """Inside, `listener` is called on the loop after each change of the record."""
        self._listeners.append(listener)
        self._wake()
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def fork(self, size: int) -> list[Interpreter]:
        """`size` interpreters that go on from what will have been said here."""
        handovers: list[Future[Record]] = [Future() for _ in range(size)]
        children = [self._child(handover) for handover in handovers]
        self._children += children
        self.submit(commands.Fork(handovers))
        return children

    def own(self, body: asyncio.Task[Any]) -> None:
        """Keep the task of an async program's function: event loops forget theirs."""
        self._body = body

    def total_usage(self) -> Usage:
        """With that of the forks."""
        return sum((child.total_usage() for child in self._children), self.execution.usage)

    def _child(self, handover: Future[Record]) -> Interpreter:
        child = Interpreter(
            self.backend,
            self.sampling,
            self.loop,
            is_streaming=self.is_streaming,
            num_api_spec_tokens=self._num_api_spec_tokens,
            before_first=self.execution.ready,
        )
        child.submit(commands.Adopt(handover))
        return child

    def _new_future(self) -> Future[None]:
        future: Future[None] = Future()
        if self.failure is not None:
            future.set_result(None)
        return future

    def _wake(self) -> None:
        with self._lock:
            if self._is_awake or not self._queue:
                return
            self._is_awake = True
        self.loop.call(self._start)

    # -- on the loop -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._drain())
        self._task.add_done_callback(self._drained)

    async def _drain(self) -> None:
        while (item := self._take()) is not None:
            await (item.execute(self) if isinstance(item, commands.Command) else self.execution.execute(item))
            with self._lock:
                self._num_left -= not isinstance(item, commands.Mark)
            self._changed()

    def _take(self) -> Queued | None:
        """Nothing more once the program is to stop: who waits shall wake after the failure is known."""
        with self._lock:
            if self._queue and self._stop_cause is None:
                return self._queue.popleft()
            self._is_awake = False
            return None

    def _drained(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # it may have a successor already
            self._task = None
        if task.cancelled():
            self._fail(self._stop_cause or Cancelled("the program was cancelled"))
        elif (error := task.exception()) is not None:
            log.warning("a program stopped: %s: %s", type(error).__name__, error)
            self._fail(error)
        elif self._stop_cause is not None:
            self._fail(self._stop_cause)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._stop_cause is not None:
            self._fail(self._stop_cause)

    def _fail(self, cause: BaseException) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = cause
            self._is_awake, self.is_finished = False, True
            dropped, self._queue = list(self._queue), deque()
            waiting = [future for futures in self._unset.values() for future in futures if not future.done()]
        for future in waiting:
            future.set_result(None)
        for item in dropped:
            if isinstance(item, commands.Command):
                item.abandon(cause)
        self._changed()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _set(self, name: object) -> None:
        with self._lock:
            future = self._unset[name].popleft()
        future.set_result(None)
