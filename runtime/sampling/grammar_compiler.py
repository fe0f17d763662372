"""Compiles grammars off the event loop: a queue, and a few processes that take from it.

The Grammar actor submits and is told `GrammarCompiled` in its mailbox, as the scheduler is told by the executor; the grammar is
in the store by then. It outlives the restarts of the actor. Invariant: every grammar that is submitted is answered once, also
if its process dies; one that takes long holds up one process, not the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from runtime.config import GrammarConfig
from runtime.errors import Failure, InternalError
from runtime.messages import GrammarCompiled, Message
from runtime.params import GrammarSpec
from runtime.sampling.grammar_frames import Setup
from runtime.sampling.grammar_process import MODULE, CompileFailed, GrammarProcess
from runtime.sampling.grammar_store import GrammarStore

NUM_PROCESSES = 2

Tell = Callable[[Message], None]


class GrammarCompiler(Protocol):
    """The port through which the Grammar actor compiles."""

    def start(self, tell: Tell) -> None:
        """From now on answers go to `tell`, those under way too."""
        ...

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        """Compile it; the answer is a `GrammarCompiled`."""
        ...

    def has(self, key: str) -> bool:
        """Whether the grammar is compiled and still kept."""
        ...

    async def stop(self) -> None:
        """End for good; what is not compiled yet is not answered any more."""
        ...


class ProcessCompiler:
    """A `GrammarCompiler` whose processes start with the first grammars. Belongs to one event loop."""

    def __init__(self, store: GrammarStore, config: GrammarConfig, module: str = MODULE) -> None:
        self._store = store
        self._config = config
        self._module = module
        self._queue: asyncio.Queue[tuple[str, GrammarSpec]] = asyncio.Queue()
        self._workers: set[asyncio.Task[None]] = set()
        self._num_open = 0
        self._tell: Tell | None = None

    def start(self, tell: Tell) -> None:
        self._tell = tell

    def has(self, key: str) -> bool:
        return key in self._store

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        self._num_open += 1
        self._queue.put_nowait((key, grammar))
        if len(self._workers) < min(self._num_open, NUM_PROCESSES):
            worker = asyncio.create_task(self._work(), name="grammar compiler")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def stop(self) -> None:
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        process = GrammarProcess(await asyncio.to_thread(self._setup), self._module)
        try:
            while True:
                key, grammar = await self._queue.get()
                failure: Failure | None = InternalError("the grammar compiler failed").failure
                is_lasting = False
                try:
                    failure, is_lasting = await self._compile(process, key, grammar)
                finally:
                    self._num_open -= 1
                    self._answer(GrammarCompiled(key=key, failure=failure, is_lasting=is_lasting))
        finally:
            await process.stop()

    def _setup(self) -> Setup:
        return Setup(
            vocabulary=self._store.vocabulary(),
            choice=self._config.grammar_backend,
            cpu_s=self._config.grammar_compile_timeout,
            memory_bytes=self._config.grammar_compile_memory_mb * 2**20,
        )

    async def _compile(self, process: GrammarProcess, key: str, grammar: GrammarSpec) -> tuple[Failure | None, bool]:
        try:
            done = await process.compile(grammar)
        except CompileFailed as error:
            return error.failure, error.is_lasting
        await asyncio.to_thread(self._store.put, key, done.backend, done.compiled)
        return None, True

    def _answer(self, message: GrammarCompiled) -> None:
        if self._tell is not None:
            self._tell(message)
