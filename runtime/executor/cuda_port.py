"""A GPU, driven through PyTorch: the only module of the executor that speaks to one.

All work goes to one stream of its own, so that memory is used again in the order of the work, and nothing has to be told which
stream uses what. Host memory comes from PyTorch's pinned allocator, which takes a block back only when copies from it have run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.executor.device_port import DeviceMemory, Mark


@dataclass(frozen=True, slots=True)
class CudaMark:
    """Waiting sleeps rather than spins: the event loop and the launcher may share the core."""

    event: torch.cuda.Event

    def wait(self) -> None:
        self.event.synchronize()

    def us_since(self, earlier: Mark) -> int:
        assert isinstance(earlier, CudaMark)
        return round(float(earlier.event.elapsed_time(self.event)) * 1e3)


@dataclass(frozen=True, slots=True)
class CudaGraph:
    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


class CudaPort:
    """Implements `runtime.executor.device_port.DevicePort`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def attached(self) -> Iterator[None]:
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def host_words(self, num_words: int) -> Tensor:
        return torch.empty(num_words, dtype=torch.int64, pin_memory=True)

    def send(self, words: Tensor) -> Tensor:
        return words.to(self.device, non_blocking=True)

    def fetch(self, source: Tensor) -> Tensor:
        host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        return host.copy_(source, non_blocking=True)

    def mark(self) -> CudaMark:
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return CudaMark(event)

    def capture(self, work: Callable[[], Tensor]) -> CudaGraph:
        """`torch.cuda.graph` would collect garbage before each of dozens of graphs, which takes longer than recording."""
        work()  # compiles kernels and allocates workspaces, which can not be done while recording
        self.finish()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        output: Tensor | None = None
        try:
            output = work()
        finally:
            with contextlib.nullcontext() if output is not None else contextlib.suppress(RuntimeError):
                graph.capture_end()  # also of what is recorded in part, and of no use
        return CudaGraph(graph, output)

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)

    def is_lost(self, error: BaseException) -> bool:
        """An error of CUDA that lasts is reported by every call after it, one of a single call is not."""
        if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            return False
        try:
            self.finish()
        except RuntimeError:
            return True
        return False

    def memory(self) -> DeviceMemory:
        return DeviceMemory(*torch.cuda.mem_get_info(self.device))

    def peak_bytes(self, work: Callable[[], object]) -> int:
        self.finish()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self.finish()
        return torch.cuda.max_memory_allocated(self.device) - before

    def give_back(self) -> None:
        torch.cuda.empty_cache()
