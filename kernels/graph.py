"""Kernel graphs: the calls that some code makes, captured once and replayed in a single C call, as a CUDA graph is.

A captured call is a C function and its struct. What changes from one replay to the next, the parameters, are sizes and
addresses of inputs. They are found by capturing the same code twice with other parameters: a field of a struct that differs
has to be a multiple of one of them, and is written anew before each replay.

Owns the memory that the captured code allocated. Invariant: a replay does what the code itself would do with these parameters,
as long as no size is larger than at the capture.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kernels import native

REPLAY = struct.Struct("2q")  # struct replay
Words = npt.NDArray[np.int64]

ALLOCATIONS = frozenset(("empty", "new_empty", "empty_like"))
VIEWS = frozenset(("view", "flatten", "unflatten", "reshape", "contiguous", "float", "__getitem__"))
QUESTIONS = frozenset(("__get__", "data_ptr", "dim", "element_size", "numel", "size", "stride", "__len__"))
HARMLESS = ALLOCATIONS | VIEWS | QUESTIONS
"""Functions and methods of torch that a capture lets through; views only where they copy nothing."""


class CaptureError(Exception):
    """The code does something else than call kernels, so that a replay would not do all of it."""


@dataclass(frozen=True)
class Sample:
    """The code to capture and the parameters that it runs with, each a size or an address, positive and in a fixed order."""

    run: Callable[[], Tensor]
    parameters: tuple[int, ...]


class KernelGraph:
    """Calls with their structs. `output` is what the code returned at its largest; replays write into it."""

    def __init__(self, calls: Sequence[native.Call], fields: Words, arena: Arena, output: Tensor) -> None:
        """fields: [fields, 3] int64, the word to write, the parameter to take and the factor to multiply it with."""
        self.output = output
        self._arena = arena
        self._words = np.frombuffer(b"".join(arguments for _, arguments in calls), dtype=np.int64).copy()
        self._calls = _call_table(calls, self._words)
        self._places, self._sources, self._factors = np.ascontiguousarray(fields.T)
        self._arguments = REPLAY.pack(self._calls.ctypes.data, len(calls))
        self._replay = native.compiled_function("replay")

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers, as far as it has been used."""
        return self._arena.num_bytes

    def replay(self, parameters: Sequence[int]) -> None:
        """Makes the calls with these parameters, in the order of the samples'. Raises MemoryError."""
        self._words[self._places] = np.array(parameters, dtype=np.int64)[self._sources] * self._factors
        assert self._replay is not None, "what was captured were its functions"
        if self._replay(self._arguments):
            raise MemoryError("no memory for a kernel of the step")


def capture(largest: Sample, other: Sample) -> KernelGraph:
    """The graph of `largest.run`, which has to make the same calls as `other.run` with other parameters.

    Neither is executed. No size of `other` is larger, and no two parameters may have the same ratio in both samples. Tensors
    that the code allocates are the graph's, one after another in the same memory where their lives do not overlap.
    Raises CaptureError.
    """
    arena = Arena()
    calls, output = _record(largest, arena)
    arena.rewind()
    other_calls, _ = _record(other, arena)
    if [name for name, _ in calls] != [name for name, _ in other_calls]:
        raise CaptureError("the calls depend on the sizes")
    return KernelGraph(calls, _fields(calls, other_calls, largest.parameters, other.parameters), arena, output)


def _record(sample: Sample, arena: Arena) -> tuple[list[native.Call], Tensor]:
    with native.recording() as calls, _OnlyKernels(arena):
        output = sample.run()
    return calls, output


class _OnlyKernels(TorchFunctionMode):
    """Takes memory from the arena, lets torch make views, and refuses all that would compute."""

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self._arena = arena

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name not in HARMLESS:
            raise CaptureError(f"torch's {name} computes something")
        made = func(*args, **(kwargs or {}))
        if name in VIEWS and not _shares_memory(made, args[0]):
            raise CaptureError(f"torch's {name} copies a tensor")
        return self._arena.empty(made.shape, made.dtype) if name in ALLOCATIONS else made


def _shares_memory(view: Tensor, tensor: Tensor) -> bool:
    return view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


class Arena:
    """Memory for the tensors of a capture. A block is given again once no tensor holds it, as a replay keeps the order."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._given: list[Tensor] = []
        """The block of each tensor, in the order they were asked for."""
        self._num_given = 0
        self._free: dict[int, list[Tensor]] = {}
        """By size in bytes."""

    @property
    def num_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def rewind(self) -> None:
        """Gives the same blocks in the same order once more."""
        self._num_given = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        if self._num_given == len(self._given):
            self._given.append(self._take(num_bytes))
        block = self._given[self._num_given].numpy()
        self._num_given += 1
        if num_bytes > block.nbytes:
            raise CaptureError("a tensor is larger than at the first capture")
        weakref.finalize(block, self._free[block.nbytes].append, self._given[self._num_given - 1])
        return torch.from_numpy(block)[:num_bytes].view(dtype).view(shape)

    def _take(self, num_bytes: int) -> Tensor:
        free = self._free.setdefault(num_bytes, [])
        if free:
            return free.pop()
        self._blocks.append(torch.empty(num_bytes, dtype=torch.uint8))
        return self._blocks[-1]


def _call_table(calls: Sequence[native.Call], words: Words) -> Words:
    """[calls, 2] int64: the addresses of each call's function and arguments."""
    rows, at = [], words.ctypes.data
    for name, arguments in calls:
        rows.append((native.address(name), at))
        at += len(arguments)
    return np.array(rows, dtype=np.int64)


def _fields(
    calls: Sequence[native.Call], others: Sequence[native.Call], parameters: tuple[int, ...], other_parameters: tuple[int, ...]
) -> Words:
    words, other_words = (np.frombuffer(b"".join(arguments for _, arguments in made), np.int64) for made in (calls, others))
    rows = [
        (place, *_source(int(words[place]), int(other_words[place]), parameters, other_parameters))
        for place in np.flatnonzero(words != other_words)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _source(value: int, other: int, parameters: tuple[int, ...], other_parameters: tuple[int, ...]) -> tuple[int, int]:
    """The parameter that a field follows, and by what factor."""
    found = [
        (index, value // first)
        for index, (first, second) in enumerate(zip(parameters, other_parameters, strict=True))
        if value % first == 0 and other == value // first * second
    ]
    if len(found) != 1:
        raise CaptureError(f"a field with values {value} and {other} follows {len(found)} parameters")
    return found[0]
