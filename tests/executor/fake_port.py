"""A device that is the CPU, as late and as unforgiving as a real one.

What is copied to the host arrives only when a mark behind it is passed, garbage is there until then, and what was sent must
still be there unchanged at that time. Marks are passed when somebody waits for them, or never, while the gate is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from runtime.executor.device_port import DeviceMemory

TIMEOUT_S = 30.0
GARBAGE = -77
US_PER_MARK = 10


class DeviceBroke(RuntimeError):
    """What a lost device says."""


@dataclass
class FakeMark:
    port: FakePort
    number: int

    def wait(self) -> None:
        assert self.port.gate.wait(TIMEOUT_S), "nobody opens the gate"
        self.port.pass_marks(self.number)

    def us_since(self, earlier: FakeMark) -> int:
        assert earlier.number <= self.number <= self.port.num_passed, "only marks that were passed have a time"
        return (self.number - earlier.number) * US_PER_MARK


@dataclass
class FakeGraph:
    work: Callable[[], Tensor]
    output: Tensor
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        self.output.copy_(self.work())


@dataclass
class FakePort:
    """Implements `runtime.executor.device_port.DevicePort`."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    gate: threading.Event = field(default_factory=threading.Event)
    """Closed: the device computes, and nothing arrives."""
    graphs: list[FakeGraph] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    """What the next marks that are passed raise."""
    launchers: set[threading.Thread] = field(default_factory=set)
    free_bytes: int = 2**30
    total_bytes: int = 2**31
    peak: int = 2**20
    num_passed: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        self._num_marks = 0
        self._lock = threading.Lock()
        self._pending: list[tuple[int, Callable[[], None]]] = []
        """(mark behind it, what happens when that is passed)"""

    @contextmanager
    def attached(self) -> Iterator[None]:
        yield

    def host_words(self, num_words: int) -> Tensor:
        return torch.full((num_words,), GARBAGE, dtype=torch.int64)

    def send(self, words: Tensor) -> Tensor:
        sent = words.clone()

        def check() -> None:
            assert torch.equal(words, sent), "sent memory was written to before it had arrived"

        self._later(check)
        return sent.clone()

    def fetch(self, source: Tensor) -> Tensor:
        host, taken = torch.full_like(source, GARBAGE), source.clone()

        def arrive() -> None:
            host.copy_(taken)

        self._later(arrive)
        return host

    def mark(self) -> FakeMark:
        self.launchers.add(threading.current_thread())
        self._num_marks += 1
        return FakeMark(self, self._num_marks)

    def capture(self, work: Callable[[], Tensor]) -> FakeGraph:
        work()
        self.graphs.append(FakeGraph(work, work()))
        return self.graphs[-1]

    def finish(self) -> None:
        self.pass_marks(self._num_marks)

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, DeviceBroke)

    def memory(self) -> DeviceMemory:
        return DeviceMemory(self.free_bytes, self.total_bytes)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        work()
        return self.peak

    def give_back(self) -> None:
        pass

    def pass_marks(self, number: int) -> None:
        """All up to `number`, in order."""
        with self._lock:
            self.num_passed = max(self.num_passed, number)
            due = [action for mark, action in self._pending if mark <= self.num_passed]
            self._pending = [(mark, action) for mark, action in self._pending if mark > self.num_passed]
            error = self.errors.pop(0) if self.errors else None
        for action in due:
            action()
        if error is not None:
            raise error

    def _later(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._pending.append((self._num_marks + 1, action))
