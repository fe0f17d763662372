"""From a checkpoint to an executor: load the model, size the cache for what memory is left, and put both together."""

from __future__ import annotations

import logging
import math
import os
import sys

from runtime.config import Config
from runtime.executor.cpu import CpuExecutor
from runtime.executor.memory import ModelSize, allocate_kv, free_memory_bytes, size_limits
from runtime.executor.port import ExecutorLimits
from runtime.loading.checkpoint import Checkpoint
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from runtime.models.spec import weight_shapes

log = logging.getLogger(__name__)


def build_executor(config: Config, checkpoint: Checkpoint) -> CpuExecutor:
    """An executor that waits for `start`. Raises `LoadError` about the model and `ConfigError` about the cache."""
    model = load_model(
        checkpoint,
        dtype=config.model.dtype,
        activation_bits=config.model.activation_bits,
        num_positions=config.model.context_length,
    )
    size = model_size(model)
    limits = size_limits(config, size, free_memory_bytes())
    kv = allocate_kv(size.kv_shape, limits.num_pages, limits.page_size)
    num_threads = config.executor.num_threads or num_usable_cores()
    _log_sizes(size, limits, num_threads)
    # OpenMP's threads go on spinning after their work, on the cores that the kernels' own threads need.
    num_torch_threads = 1 if model.computes_in_kernels else num_threads
    return CpuExecutor(model, kv, limits, num_threads=num_threads, num_torch_threads=num_torch_threads)


def model_size(model: Decoder) -> ModelSize:
    """Counts weights in the model's compute type, which is the most that any packing of them takes."""
    shape = model.kv_shape()
    num_weights = sum(math.prod(weight) for weight in weight_shapes(model.spec).values())
    return ModelSize(
        kv_shape=shape,
        vocab_size=model.spec.vocab_size,
        context_length=model.num_positions,
        weight_bytes=num_weights * model.dtype.itemsize,
    )


def num_usable_cores() -> int:
    """Cores that the process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _log_sizes(size: ModelSize, limits: ExecutorLimits, num_threads: int) -> None:
    num_tokens = limits.num_pages * limits.page_size
    log.info(
        "Executor: cpu, %d threads. Weights: %d MB of %s. KV cache: %d tokens in %d pages, up to %d MB. Context: %d tokens",
        num_threads,
        size.weight_bytes // 2**20,
        str(size.kv_shape.dtype).removeprefix("torch."),
        num_tokens,
        limits.num_pages,
        num_tokens * size.kv_shape.bytes_per_token // 2**20,
        limits.context_length,
    )
