"""The numbers that a step sends to the device: many small arrays in one copy, since every copy costs as much as a kernel.

Everything is in words of 64 bits: indices need no conversion on the device, and floats and bitmasks are words seen otherwise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runtime.executor.device_port import DevicePort
from runtime.executor.rows import Ints


class Packet:
    """Arrays one behind the other. `add` says where one lies."""

    def __init__(self) -> None:
        self._parts: list[Ints] = []
        self._num_words = 0

    def add(self, values: npt.ArrayLike) -> slice:
        """Integers, in the order of their memory."""
        return self._add(np.asarray(values, dtype=np.int64).reshape(-1))

    def add_bytes(self, values: npt.NDArray[np.generic]) -> slice:
        """The memory of `values`, filled up to whole words."""
        memory = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        padded = np.zeros(-(-len(memory) // 8) * 8, dtype=np.uint8)
        padded[: len(memory)] = memory
        return self._add(padded.view(np.int64))

    def write(self, words: Ints) -> None:
        """Write all to the first of `words`."""
        np.concatenate(self._parts, out=words[: self._num_words])

    def __len__(self) -> int:
        return self._num_words

    def _add(self, part: Ints) -> slice:
        start = self._num_words
        self._parts.append(part)
        self._num_words += len(part)
        return slice(start, self._num_words)


class Transfers:
    """The copies of one step. Owns their host memory, so it lives until the device has passed the step's end."""

    def __init__(self, port: DevicePort) -> None:
        self._port = port
        self._memory: list[Tensor] = []

    def send(self, packet: Packet) -> Tensor:
        """[words] int64 on the device."""
        words = self._port.host_words(len(packet))
        packet.write(words.numpy())
        self._memory.append(words)
        return self._port.send(words)

    def fetch(self, source: Tensor) -> Tensor:
        """`source` on the host, once the step has ended."""
        memory = self._port.fetch(source)
        self._memory.append(memory)
        return memory
