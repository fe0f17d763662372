"""Compiles the Triton kernels that a test module launches to machine code for an H100 or H200, on a machine without a GPU.

`python -m tests.kernels.compile_launches MODULE`: the module's `launches()` yields names and functions that launch kernels,
with tensors on the CPU. Every launch goes the way of the GPU up to the call of the driver, so types, tile shapes and all that
the interpreter does not check are checked, bf16 included. Prints one JSON object a line: `launch`, `kernel`, `shared_bytes`,
or `launch` and `error`. Triton's interpreter must be off.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

HOPPER = GPUTarget("cuda", 90, 32)
MAX_SHARED_BYTES = 227 * 1024
"""What one block of threads can have there."""


class NoDriver:
    """Stands where the CUDA driver is: says what to compile for, and launches nothing."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return HOPPER


def compile_only(compiled: list[Any]) -> None:
    """From now on a launch compiles its kernel, appends it to `compiled` and runs nothing."""
    triton.runtime.driver.set_active(NoDriver())
    compile_and_launch = JITFunction.run

    @functools.wraps(compile_and_launch)
    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if not callable(grid) and 0 in grid:
            raise ValueError(f"a grid of {grid}")
        compiled.append(compile_and_launch(self, *args, grid=grid, warmup=True, **kwargs))
        return compiled[-1]

    JITFunction.run = run


def reports(launch: str, call: Callable[[], object], compiled: list[Any]) -> Iterator[dict[str, object]]:
    compiled.clear()
    try:
        call()
    except Exception:
        yield {"launch": launch, "error": traceback.format_exc(limit=-6)}
        return
    if not compiled:
        yield {"launch": launch, "error": "launches no kernel"}
    for kernel in compiled:
        report = {"launch": launch, "kernel": kernel.metadata.name, "shared_bytes": kernel.metadata.shared}
        if kernel.metadata.shared > MAX_SHARED_BYTES:
            report["error"] = f"takes more than {MAX_SHARED_BYTES} bytes of shared memory"
        yield report


def main(module: str) -> None:
    compiled: list[Any] = []
    compile_only(compiled)
    for launch, call in importlib.import_module(module).launches():
        for report in reports(launch, call, compiled):
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
