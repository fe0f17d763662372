"""What the executor needs of an accelerator: copies, marks in its stream of work, recorded graphs, and how much memory it has.

All work goes to one stream and runs in the order in which it was launched. Launching never waits for the device; only
`Mark.wait` and `DevicePort.finish` do. `cuda_port` is the one that drives a GPU; the tests have one that runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A place in the stream of work."""

    def wait(self) -> None:
        """Until the device has come here; other threads run meanwhile. Raises RuntimeError for work that failed."""
        ...

    def us_since(self, earlier: Mark) -> int:
        """Device time between two marks that it has passed."""
        ...


class Graph(Protocol):
    """Work that was recorded once. It reads and writes the same memory at each replay."""

    @property
    def output(self) -> Tensor: ...

    def replay(self) -> None: ...


class DeviceMemory(NamedTuple):
    free_bytes: int
    total_bytes: int


class DevicePort(Protocol):
    """One device, driven by one thread at a time."""

    @property
    def device(self) -> torch.device: ...

    def attached(self) -> AbstractContextManager[object]:
        """The calling thread's work goes to the device and its stream; every thread that launches or waits needs it."""
        ...

    def host_words(self, num_words: int) -> Tensor:
        """[words] int64 of host memory that the device can read by itself."""
        ...

    def send(self, words: Tensor) -> Tensor:
        """A copy of `host_words` on the device. The host's must not be changed or dropped before a later mark is passed."""
        ...

    def fetch(self, source: Tensor) -> Tensor:
        """Host memory that has the contents of `source` once a later mark is passed, and must not be dropped before."""
        ...

    def mark(self) -> Mark:
        """A mark behind all work launched so far."""
        ...

    def capture(self, work: Callable[[], Tensor]) -> Graph:
        """Run `work`, then record it. It may not wait for the device; it must be repeatable."""
        ...

    def finish(self) -> None:
        """Wait for all work launched so far."""
        ...

    def is_lost(self, error: BaseException) -> bool:
        """Whether `error` means that the device will not compute anything any more in this process."""
        ...

    def memory(self) -> DeviceMemory: ...

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """How much more memory than before is taken at some time during `work`."""
        ...

    def give_back(self) -> None:
        """Return memory that was freed to the device, for others and for larger pieces."""
        ...
