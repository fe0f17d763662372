"""How large the KV cache is, and its memory.

Sizing is pure: available memory comes in as a number. The memory itself is taken from the system in one piece that is zero and
untouched, so a page costs memory only once it is written.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.config import Config
from runtime.errors import ConfigError
from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import KVCache, KVShape
from runtime.models.decoder import Decoder

DEFAULT_MEM_FRACTION = 0.6
DEFAULT_MAX_TOKENS = 65_536
"""Without a word from the user the cache is not larger than this, or than one context."""
DEFAULT_NUM_SLOTS = 256
MIN_PAGES = 3
MAX_CACHED_TOKENS = 2**31 - 1
"""Write slots are int32."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What sizing has to know of a loaded model."""

    kv_shape: KVShape
    vocab_size: int
    context_length: int
    """Tokens that the model was made for."""
    weight_bytes: int


def model_size(model: Decoder) -> ModelSize:
    """What the sizing of the cache has to know."""
    return ModelSize(
        kv_shape=model.kv_shape(),
        vocab_size=model.spec.vocab_size,
        context_length=model.num_positions,
        weight_bytes=model.weight_bytes,
    )


def size_limits(config: Config, model: ModelSize, available_bytes: int) -> ExecutorLimits:
    """The limits of an executor for `model`, when `available_bytes` are left after loading it.

    The context is cut to what the cache holds, unless the user asked for one. Raises `ConfigError` if not even that context, or
    fewer than `MIN_PAGES` pages, fit.
    """
    context_length = config.model.context_length or model.context_length
    return limits_of(config, model, _num_pages(config, model, context_length, available_bytes))


def limits_of(config: Config, model: ModelSize, num_pages: int) -> ExecutorLimits:
    """The limits of an executor whose cache has `num_pages`. Raises like `size_limits`."""
    page_size = config.cache.page_size
    context_length = config.model.context_length or model.context_length
    if num_pages < MIN_PAGES:
        raise ConfigError(
            f"the KV cache would hold only {num_pages} pages of {page_size} tokens, and at least {MIN_PAGES} are needed:"
            " raise --max-total-tokens or --mem-fraction-static, or free some memory"
        )
    num_tokens = num_pages * page_size
    if config.model.context_length is not None and num_tokens < context_length:
        raise ConfigError(
            f"the KV cache holds {num_tokens} tokens, which is less than one context of {context_length}:"
            " lower --context-length, raise --max-total-tokens or --mem-fraction-static, or free some memory"
        )
    return ExecutorLimits(
        num_pages=num_pages,
        page_size=page_size,
        num_slots=min(config.scheduler.max_running_requests or DEFAULT_NUM_SLOTS, num_pages),
        context_length=min(context_length, num_tokens),
        vocab_size=model.vocab_size,
    )


def _num_pages(config: Config, model: ModelSize, context_length: int, available_bytes: int) -> int:
    page_size = config.cache.page_size
    bytes_per_token = model.kv_shape.bytes_per_token
    if config.cache.max_total_tokens is not None:
        num_tokens = config.cache.max_total_tokens
        if num_tokens * bytes_per_token > available_bytes:
            raise ConfigError(
                f"--max-total-tokens {num_tokens} takes {num_tokens * bytes_per_token // 2**20} MB for the KV cache, and"
                f" {available_bytes // 2**20} MB are free"
            )
        return min(num_tokens, MAX_CACHED_TOKENS) // page_size
    num_pages_per_context = -(-context_length // page_size)
    useful_tokens = useful_pages(config, context_length) * page_size
    if config.cache.mem_fraction_static is None:
        useful_tokens = min(useful_tokens, max(DEFAULT_MAX_TOKENS, num_pages_per_context * page_size))
    return min(useful_tokens, _affordable_tokens(config, model, available_bytes)) // page_size


def useful_pages(config: Config, context_length: int) -> int:
    """What all slots can fill, as far as write slots count."""
    page_size = config.cache.page_size
    num_slots = config.scheduler.max_running_requests or DEFAULT_NUM_SLOTS
    return min(num_slots * -(-context_length // page_size), MAX_CACHED_TOKENS // page_size)


def _affordable_tokens(config: Config, model: ModelSize, available_bytes: int) -> int:
    fraction = config.cache.mem_fraction_static or DEFAULT_MEM_FRACTION
    budget_bytes = int(fraction * (available_bytes + model.weight_bytes)) - model.weight_bytes
    return max(0, budget_bytes) // model.kv_shape.bytes_per_token


def allocate_kv(shape: KVShape, num_pages: int, page_size: int) -> KVCache:
    """Keys and values, all zero, for `num_pages` pages. Raises `ConfigError` if the system refuses so much address space.

    The memory is mapped rather than allocated: an allocator would hand out used memory, whose bits may be NaN, or touch all of
    it to clear it.
    """
    num_bytes = num_pages * page_size * shape.bytes_per_token
    try:
        memory = mmap.mmap(-1, num_bytes, access=mmap.ACCESS_COPY)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"no room for a KV cache of {num_bytes // 2**20} MB ({error}): lower --max-total-tokens") from error
    cache = torch.frombuffer(memory, dtype=shape.dtype).view(
        shape.num_layers, 2, num_pages, shape.num_kv_heads, page_size, shape.head_dim
    )
    return KVCache(keys=[layer[0] for layer in cache], values=[layer[1] for layer in cache])


def free_memory_bytes() -> int:
    """Memory that the process can take without pushing others out: the machine's, or its container's if that is less."""
    return min(_free_on_machine(Path("/proc/meminfo")), _free_in_container(Path("/sys/fs/cgroup")))


def _free_on_machine(meminfo: Path) -> int:
    if sys.platform == "win32":
        return 2**62  # no portable way to ask; the default cap keeps the cache modest
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_in_container(cgroup: Path) -> int:
    """What a version 2 control group leaves; its cached files can be given back, so they count as free."""
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        usage = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(usage["active_file"]) + int(usage["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no control group, or one without a limit ("max")
        return 2**62


def return_freed_memory() -> None:
    """Hand what was freed back to the system: glibc keeps much of it for later. Elsewhere there is nothing to do."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):  # musl has none
            library.malloc_trim(0)
