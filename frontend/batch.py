"""Runs a program for many arguments: a bounded number at a time, all of their requests on the shared loop.

A program that fails fails alone, and its state says why. Results come in the order of the arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any

from frontend.checkpoint import Checkpoint
from frontend.errors import Cancelled
from frontend.interpreter import Interpreter
from frontend.launch import Call, settle
from frontend.loop import shared_loop
from frontend.prefix_gate import PrefixGate, Ticket
from frontend.program_threads import ProgramThreads
from frontend.settings import global_config
from frontend.state import ProgramState, arrival

AUTO_CONCURRENCY = 512

Deliver = Callable[[int, ProgramState], object]


class Batch:
    """`calls` in order; at most `concurrency` of them run at a time. Used once."""

    def __init__(
        self, calls: Sequence[Call], concurrency: int, *, checkpoint: Checkpoint | None = None, shows_progress: bool = False
    ) -> None:
        self._calls = calls
        self._concurrency = min(concurrency, len(calls))
        self._checkpoint = checkpoint
        self._shows_progress = shows_progress
        self._threads = ProgramThreads(self._concurrency)
        self._tickets: Callable[[], Ticket | None] = lambda: None

    def results(self) -> Iterator[ProgramState]:
        """The states, each as soon as it and all before it are there. Closing the iterator cancels the rest."""
        finished: SimpleQueue[tuple[int, ProgramState] | None] = SimpleQueue()
        running = shared_loop().submit(self.run(lambda index, state: finished.put((index, state))))
        running.add_done_callback(lambda _: finished.put(None))
        early: dict[int, ProgramState] = {}
        try:
            with self._progress_bar() as progress:
                for index in range(len(self._calls)):
                    while index not in early:
                        early.update([_next(finished, running)])
                        progress.update()
                    yield early.pop(index)
        finally:
            running.cancel()

    async def results_async(self) -> list[ProgramState]:
        """The states, for a caller on another event loop. Cancelling the wait cancels the batch."""
        states: dict[int, ProgramState] = {}
        with self._progress_bar() as progress:

            def deliver(index: int, state: ProgramState) -> None:
                states[index] = state
                progress.update()

            await asyncio.wrap_future(shared_loop().submit(self.run(deliver)))
        return [states[index] for index in range(len(self._calls))]

    async def run(self, deliver: Deliver) -> None:
        """On the shared loop. `deliver` is called with each state as it is finished."""
        rest = self._restored(deliver) if self._checkpoint is not None else list(range(len(self._calls)))
        concurrency = min(self._concurrency, len(rest))
        if global_config.enable_precache_with_tracing and concurrency > 1:
            self._tickets = PrefixGate(self._calls[0].backend, len(rest)).ticket
        indices = iter(rest)
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(self._work(indices, deliver))
        finally:
            self._threads.close()

    def _restored(self, deliver: Deliver) -> list[int]:
        """Deliver what the checkpoint has; the indices of what it has not."""
        assert self._checkpoint is not None
        rest = []
        for index, call in enumerate(self._calls):
            state = self._checkpoint.restore(index, call)
            if state is None:
                rest.append(index)
            else:
                deliver(index, state)
        return rest

    async def _work(self, indices: Iterator[int], deliver: Deliver) -> None:
        for index in indices:
            state = await self._run_one(self._calls[index])
            if self._checkpoint is not None:
                self._checkpoint.save(index, self._calls[index], state)
            deliver(index, state)

    async def _run_one(self, call: Call) -> ProgramState:
        ticket = self._tickets()
        interpreter = call.interpreter(None if ticket is None else ticket.arrive)
        state = ProgramState(interpreter)
        try:
            await self._run_body(call, interpreter, state)
            await arrival(interpreter.settled())
        except asyncio.CancelledError:
            interpreter.stop(Cancelled("the batch was cancelled"))
            raise
        finally:
            if ticket is not None:
                ticket.leave()
        return state

    async def _run_body(self, call: Call, interpreter: Interpreter, state: ProgramState) -> None:
        body: asyncio.Future[Any]
        if call.function.is_async:
            body = asyncio.ensure_future(call.on(ProgramState(interpreter, is_async=True)))
        else:
            inner = ProgramState(interpreter, waiting=self._threads.waiting)
            body = asyncio.wrap_future(self._threads.submit(partial(call.on, inner)))
        try:
            await asyncio.wait([body])
        finally:
            body.cancel()
        settle(state, interpreter, body)

    def _progress_bar(self) -> Any:
        if not self._shows_progress:
            return nullcontext(_NoBar())
        from tqdm import tqdm

        return tqdm(total=len(self._calls))


class _NoBar:
    def update(self) -> None:
        """Nobody looks."""


def _next(finished: SimpleQueue[tuple[int, ProgramState] | None], running: Future[None]) -> tuple[int, ProgramState]:
    """Raises what ended the batch early."""
    found = finished.get()
    if found is None:
        running.result()
        raise Cancelled("the batch ended before all of its programs")
    return found
