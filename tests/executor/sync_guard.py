"""Forbids what would make the host wait for a device, or could not be recorded in a CUDA graph, while a step is launched.

Operations whose result has a size or a value that the host must know; reading a tensor's values; masks as indices. On the CPU
all of them work, so only this tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"}
WAITS = {
    "_local_scalar_dense", "item", "nonzero", "nonzero_static", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique",
    "_unique2", "unique_consecutive", "bincount", "histc", "isin", "argwhere",
}  # fmt: skip
INDEXES = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


class Waits(AssertionError):
    """The host would wait."""


class SyncGuard:
    """`host` tensors, and what shares their memory, may be read."""

    def __init__(self, host: list[torch.Tensor]) -> None:
        self._host = {tensor.untyped_storage().data_ptr() for tensor in host}
        self._is_on = False
        self.num_checked = 0

    def allow(self, tensor: torch.Tensor) -> None:
        self._host.add(tensor.untyped_storage().data_ptr())

    @contextmanager
    def on(self) -> Iterator[None]:
        self._is_on = True
        try:
            with _Functions(self), _Operations(self):
                yield
        finally:
            self._is_on = False

    def paused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, unchecked: it is another one on a device, or it is meant to wait."""

        def unchecked(*args: Any, **kwargs: Any) -> Any:
            was_on, self._is_on = self._is_on, False
            try:
                return function(*args, **kwargs)
            finally:
                self._is_on = was_on

        return unchecked

    def check_read(self, name: str, tensor: object) -> None:
        is_device = isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._host
        if self._is_on and name in READS and is_device:
            raise Waits(f"{name} reads a tensor of the device")

    def check_operation(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_on:
            return
        self.num_checked += 1
        if name in WAITS:
            raise Waits(name)
        if name in INDEXES and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            raise Waits(f"{name} with a mask")
        if name == "repeat_interleave" and kwargs.get("output_size") is None and isinstance(args[-1], torch.Tensor):
            raise Waits("repeat_interleave without its output size")


class _Functions(TorchFunctionMode):
    def __init__(self, guard: SyncGuard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._guard.check_read(getattr(func, "__name__", ""), args[0] if args else None)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, guard: SyncGuard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._guard.check_operation(func.overloadpacket.__name__, args, kwargs or {})
        return func(*args, **(kwargs or {}))
