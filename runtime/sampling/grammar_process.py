"""The compiler's process as the server sees it: started when needed, killed when it takes too long, replaced when it dies.

Invariant: each `compile` ends with a result or a `CompileFailed`, whatever the child does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress

import msgspec

from runtime.errors import CallboardError, Failure, InvalidRequest, Unavailable
from runtime.params import GrammarSpec
from runtime.sampling.grammar_frames import (
    LENGTH,
    OUT_OF_MEMORY,
    BackendNeeded,
    BackendReady,
    Compile,
    Compiled,
    FromChild,
    Refused,
    Setup,
    ToChild,
    packed,
)

log = logging.getLogger(__name__)

MODULE = "runtime.sampling.grammar_child"
START_S = 60.0
"""For Python and a library to be imported on a busy machine."""
WALL_FACTOR = 5.0
"""A busy machine gives a process a part of its time; the CPU limit inside of it is the exact one."""
ENDING_S = 5.0
"""For a child whose pipe has closed to end by itself: `Process.kill` may reap it, and then asyncio sees no exit code."""
MAX_FRAME_BYTES = 512 * 2**20


class CompileFailed(CallboardError):
    """Why there is no grammar. `is_lasting`: the same grammar would fail again, whatever the machine does."""

    def __init__(self, failure: Failure, *, is_lasting: bool = True) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.is_lasting = is_lasting


class GrammarProcess:
    """At most one child at a time, and one grammar in it."""

    def __init__(self, setup: Setup, module: str = MODULE) -> None:
        self._setup = setup
        self._module = module
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def compile(self, grammar: GrammarSpec) -> Compiled:
        """Raises `CompileFailed`."""
        try:
            process = await self._living()
            answer = await self._ask(process, Compile(grammar))
        except TimeoutError:
            await self.stop()
            raise CompileFailed(_no_time(), is_lasting=False) from None
        except msgspec.MsgspecError:  # it lives, but its memory is not what it was
            await self.stop()
            raise CompileFailed(_too_complex(grammar)) from None
        except (EOFError, ConnectionError, OSError):
            raise await self._died(grammar) from None
        except asyncio.CancelledError:
            await self.stop()
            raise
        if isinstance(answer, Refused):
            raise CompileFailed(answer.failure)
        assert isinstance(answer, Compiled)
        return answer

    async def stop(self) -> None:
        """Kill the child, if there is one, and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _living(self) -> Process:
        """The child, or a new one if it ended while it had nothing to do: no grammar is to blame for that."""
        if self._process is not None and _has_ended(self._process):
            log.warning("the grammar compiler ended while it was idle")
            await self.stop()
        return self._process or await self._start()

    async def _start(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=os.environ | {"PYTHONPATH": _search_path()},
        )
        await self._send(self._process, self._setup)
        return self._process

    async def _ask(self, process: Process, frame: Compile) -> FromChild:
        """Two clocks: one for what is compiled, a patient one for what is imported."""
        patience_s = WALL_FACTOR * self._setup.cpu_s
        deadline_s = START_S + patience_s
        async with asyncio.timeout(deadline_s) as deadline:
            await self._send(process, frame)
            while isinstance(answer := await _read(process), BackendNeeded | BackendReady):
                allowed_s = START_S if isinstance(answer, BackendNeeded) else patience_s
                deadline.reschedule(asyncio.get_running_loop().time() + allowed_s)
        return answer

    async def _send(self, process: Process, frame: ToChild) -> None:
        assert process.stdin is not None
        if _has_ended(process):  # uvloop would raise a RuntimeError
            raise ConnectionResetError("the child has ended")
        process.stdin.write(packed(frame))
        await process.stdin.drain()

    async def _died(self, grammar: GrammarSpec) -> CompileFailed:
        """What the end of the child means for the grammar that it was at."""
        process = self._process
        if process is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), ENDING_S)
        await self.stop()
        code = None if process is None else process.returncode
        log.warning("the grammar compiler ended (%s) at a grammar of kind %s", code, grammar.kind)
        if code == -signal.SIGPROF:
            # A busy machine is slower for each second of CPU too, so that another time it may do.
            return CompileFailed(_refusal(grammar, f"takes more than {self._setup.cpu_s:g} s to compile"), is_lasting=False)
        if code == OUT_OF_MEMORY:
            limit = self._setup.memory_bytes // 2**20
            return CompileFailed(_refusal(grammar, f"takes more than {limit} MB to compile"))
        if code in (-signal.SIGKILL, -signal.SIGTERM, None):
            # Nothing that a grammar does: the machine is out of memory, or somebody cleans up.
            failure = Unavailable("the grammar compiler was ended from outside; the request is safe to send again").failure
            return CompileFailed(failure, is_lasting=False)
        return CompileFailed(_too_complex(grammar))


def _has_ended(process: Process) -> bool:
    """As far as the event loop knows yet."""
    assert process.stdin is not None
    return process.returncode is not None or process.stdin.is_closing()


def _search_path() -> str:
    """Where this process found its modules, so that the child finds the same."""
    return os.pathsep.join(os.path.abspath(folder) for folder in sys.path)


async def _read(process: Process) -> FromChild:
    """Raises `EOFError` when the child has ended."""
    assert process.stdout is not None
    length = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
    if length > MAX_FRAME_BYTES:
        raise EOFError("the frame is too long")
    answer: FromChild = msgspec.msgpack.decode(await process.stdout.readexactly(length), type=FromChild)
    return answer


def _refusal(grammar: GrammarSpec, problem: str) -> Failure:
    return InvalidRequest(f"the {grammar.kind} {problem}", param=grammar.kind).failure


def _too_complex(grammar: GrammarSpec) -> Failure:
    return _refusal(grammar, "is too complex: the compiler failed at it")


def _no_time() -> Failure:
    """The CPU limit did not end it, so it hardly ran."""
    return Unavailable("the machine is too busy to compile a grammar; the request is safe to send again", retry_after=1).failure
