"""`python -m runtime.sampling.grammar_child`: compiles grammars for a server, one at a time, until its input ends.

It may crash, run out of memory or out of time: limits that the kernel holds end it then, and the server starts another. It
reads frames from its input and writes frames to its output; what libraries print goes nowhere.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import BinaryIO

import msgspec

from runtime.errors import RequestError
from runtime.sampling.grammar_backend import GrammarBackend, make_backend
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
from runtime.sampling.grammar_plan import plan

RECURSION_LIMIT = 5000


class Child:
    """Owns the backends of this process, each made when it is first needed."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._backends: dict[str, GrammarBackend] = {}

    def run(self) -> None:
        setup = self._read()
        while (frame := self._read()) is not None:
            if isinstance(setup, Setup) and isinstance(frame, Compile):
                self._write(self._answer(setup, frame))

    def _answer(self, setup: Setup, frame: Compile) -> FromChild:
        started = time.process_time()
        _limit_cpu(setup.cpu_s)
        try:
            planned = plan(frame.grammar, setup.choice)
            if planned.backend not in self._backends:
                self._load(planned.backend, setup)
                started = time.process_time()
            compiled = self._backends[planned.backend].compile(planned)
        except RequestError as error:
            return Refused(error.failure)
        finally:
            _limit_cpu(0)
        return Compiled(planned.backend, compiled, int((time.process_time() - started) * 1e6))

    def _load(self, name: str, setup: Setup) -> None:
        _limit_cpu(0)
        _limit_memory(None)
        self._write(BackendNeeded())
        self._backends[name] = make_backend(name, setup.vocabulary)
        _limit_memory(setup.memory_bytes)
        _limit_cpu(setup.cpu_s)
        self._write(BackendReady())

    def _read(self) -> ToChild | None:
        """None at the end of the input."""
        length = self._source.read(LENGTH.size)
        if len(length) < LENGTH.size:
            return None
        body = self._source.read(LENGTH.unpack(length)[0])
        frame: ToChild = msgspec.msgpack.decode(body, type=ToChild)
        return frame

    def _write(self, frame: FromChild) -> None:
        self._sink.write(packed(frame))
        self._sink.flush()


def _limit_cpu(seconds: float) -> None:
    """After that much CPU time the kernel ends the process, whatever library is running; 0 ends the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(num_bytes: int | None) -> None:
    """Let the process grow by that much; None lifts the limit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard if num_bytes is None else _address_space_bytes() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space_bytes() -> int:
    """What the process has mapped; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group: the server decides
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.setrecursionlimit(RECURSION_LIMIT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sink = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        Child(sys.stdin.buffer, sink).run()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
