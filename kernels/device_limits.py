"""What a GPU has for a kernel, as far as tile sizes and grids depend on it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch


class DeviceLimits(NamedTuple):
    shared_bytes: int
    """Shared memory that one program can have."""
    num_processors: int
    """Streaming multiprocessors."""


HOPPER = DeviceLimits(227 * 1024, 132)


@functools.cache
def device_limits(device: torch.device) -> DeviceLimits:
    """Of a CUDA device; the CPU, where kernels are only interpreted or compiled for a check, stands for an H100."""
    if device.type != "cuda":
        return HOPPER
    properties: Any = torch.cuda.get_device_properties(device)  # its stubs lack a field
    return DeviceLimits(properties.shared_memory_per_block_optin, properties.multi_processor_count)
