"""Compiles grammars off the event loop: a task for each, and a few processes that they take in turn.

The Grammar actor submits and is told `GrammarCompiled` in its mailbox, as the scheduler is told by the executor; the grammar is
in the store by then. It outlives the restarts of the actor. Invariant: every grammar that is submitted and not dropped is
answered once, also if its process dies; one that takes long holds up one process, not the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from runtime.config import GrammarConfig
from runtime.errors import InternalError
from runtime.messages import GrammarCompiled, Message
from runtime.params import GrammarSpec
from runtime.sampling.grammar_frames import Setup
from runtime.sampling.grammar_process import MODULE, CompileFailed, GrammarProcess
from runtime.sampling.grammar_store import GrammarStore

log = logging.getLogger(__name__)

NUM_PROCESSES = 2
SPARED_S = 1.0
"""A process is not killed sooner: most grammars are ready by then, and a new process would take as long to start."""

Tell = Callable[[Message], None]


class GrammarCompiler(Protocol):
    """The port through which the Grammar actor compiles."""

    def start(self, tell: Tell) -> None:
        """From now on answers go to `tell`. What was submitted before is dropped."""
        ...

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        """Compile it; the answer is a `GrammarCompiled`."""
        ...

    def drop(self, key: str) -> None:
        """If it is under way, nobody waits for it any more; an answer may come even so."""
        ...

    def has(self, key: str) -> bool:
        """Whether the grammar is compiled and still kept."""
        ...

    async def stop(self) -> None:
        """End for good; what is not compiled yet is not answered any more."""
        ...


class _Work:
    """One grammar on its way. `begun_s`: when it got a process, on the clock of the event loop."""

    def __init__(self) -> None:
        self.begun_s: float | None = None
        self.end: asyncio.TimerHandle | None = None
        """Set once it is dropped."""
        self.task: asyncio.Task[GrammarCompiled]


class ProcessCompiler:
    """A `GrammarCompiler` whose processes start with the first grammars. Belongs to one event loop."""

    def __init__(self, store: GrammarStore, config: GrammarConfig, module: str = MODULE) -> None:
        self._store = store
        self._config = config
        self._module = module
        self._turns = asyncio.Semaphore(NUM_PROCESSES)
        self._idle: list[GrammarProcess] = []
        self._open: dict[str, _Work] = {}
        self._tell: Tell | None = None

    def start(self, tell: Tell) -> None:
        self._tell = tell
        for key in list(self._open):
            self.drop(key)

    def has(self, key: str) -> bool:
        return key in self._store

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        work = self._open.get(key)
        if work is None:
            work = self._open[key] = _Work()
            work.task = asyncio.create_task(self._run(key, grammar, work), name="compile a grammar")
            work.task.add_done_callback(partial(self._done, key, work))
        elif work.end is not None:  # it was dropped, but is being compiled still
            work.end.cancel()
            work.end = None

    def drop(self, key: str) -> None:
        """At once if it waits for its turn; otherwise its process is killed, but not for what will soon be ready."""
        work = self._open.get(key)
        if work is None or work.end is not None:
            return
        if work.begun_s is None:
            self._cancel(key)
        else:
            work.end = asyncio.get_running_loop().call_at(work.begun_s + SPARED_S, self._cancel, key)

    async def stop(self) -> None:
        tasks = [self._cancel(key) for key in list(self._open)]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*[process.stop() for process in self._idle])

    def _cancel(self, key: str) -> asyncio.Task[GrammarCompiled]:
        work = self._open.pop(key)
        if work.end is not None:
            work.end.cancel()
        work.task.cancel()
        return work.task

    def _done(self, key: str, work: _Work, task: asyncio.Task[GrammarCompiled]) -> None:
        if self._open.get(key) is not work:  # it was cancelled, and may have been submitted again since
            return
        del self._open[key]
        if work.end is not None:
            work.end.cancel()
        if (error := task.exception()) is not None:
            log.error("a grammar was not compiled", exc_info=error)
        if self._tell is not None:
            failed = GrammarCompiled(key=key, failure=InternalError("the grammar compiler failed").failure, is_lasting=False)
            self._tell(task.result() if error is None else failed)

    async def _run(self, key: str, grammar: GrammarSpec, work: _Work) -> GrammarCompiled:
        async with self._turns:
            work.begun_s = asyncio.get_running_loop().time()
            process = self._idle.pop() if self._idle else GrammarProcess(await asyncio.to_thread(self._setup), self._module)
            try:
                return await self._compile(process, key, grammar)
            finally:
                self._idle.append(process)

    def _setup(self) -> Setup:
        return Setup(
            vocabulary=self._store.vocabulary(),
            choice=self._config.grammar_backend,
            cpu_s=self._config.grammar_compile_timeout,
            memory_bytes=self._config.grammar_compile_memory_mb * 2**20,
        )

    async def _compile(self, process: GrammarProcess, key: str, grammar: GrammarSpec) -> GrammarCompiled:
        try:
            done = await process.compile(grammar)
        except CompileFailed as error:
            return GrammarCompiled(key=key, failure=error.failure, is_lasting=error.is_lasting)
        await asyncio.to_thread(self._store.put, key, done.backend, done.compiled)
        return GrammarCompiled(key=key)
