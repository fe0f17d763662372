"""From a checkpoint to an executor: load the model, size the cache for what memory is left, and put both together."""

from __future__ import annotations

import logging
from functools import partial

from runtime.clock import SystemClock
from runtime.config import Config
from runtime.executor.cpu import CpuExecutor
from runtime.executor.extras import NO_GRAMMARS, Extensions
from runtime.executor.memory import ModelSize, allocate_kv, free_memory_bytes, return_freed_memory, size_limits
from runtime.executor.port import ExecutorLimits
from runtime.executor.source import CheckpointSource
from runtime.executor.thread_count import choose_num_threads
from runtime.loading.checkpoint import Checkpoint
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from runtime.sampling.logit_processor import load_processors
from runtime.sampling.matcher import MatcherSource

log = logging.getLogger(__name__)


def build_executor(config: Config, checkpoint: Checkpoint, matchers: MatcherSource = NO_GRAMMARS) -> CpuExecutor:
    """An executor that waits for `start`. `matchers`: the store that the Grammar actor fills.

    Raises `LoadError` about the model and `ConfigError` about the cache and the logit processors.
    """
    processors = load_processors(config.executor.logit_processor)
    model = load_model(
        checkpoint,
        dtype=config.model.dtype,
        activation_bits=config.model.activation_bits,
        num_positions=config.model.context_length,
    )
    return_freed_memory()  # before the cache is sized
    size = model_size(model)
    limits = size_limits(config, size, free_memory_bytes())
    allocate = partial(allocate_kv, size.kv_shape, limits.num_pages, limits.page_size)
    kv = allocate()
    captured = CapturedDecoder(model)
    num_threads = config.executor.num_threads or choose_num_threads(captured, limits.page_size, SystemClock())
    _log_sizes(size, limits, num_threads)
    log.info("Weights: %s", _describe_weights(model, config.model.activation_bits))
    # OpenMP's threads go on spinning after their work, on the cores that the kernels' own threads need.
    num_torch_threads = 1 if model.computes_in_kernels else num_threads
    return CpuExecutor(
        captured,
        kv,
        limits,
        num_threads=num_threads,
        num_torch_threads=num_torch_threads,
        extensions=Extensions(matchers, processors, jumps_forward=not config.executor.disable_jump_forward),
        source=CheckpointSource(config.model, checkpoint, model.num_positions, allocate),
    )


def model_size(model: Decoder) -> ModelSize:
    """What the sizing of the cache has to know."""
    return ModelSize(
        kv_shape=model.kv_shape(),
        vocab_size=model.spec.vocab_size,
        context_length=model.num_positions,
        weight_bytes=model.weight_bytes,
    )


def _describe_weights(model: Decoder, activation_bits: str) -> str:
    size = f"{model.weight_bytes / 1e6:.0f} MB"
    if model.keeps_blocks:
        return f"{size} in the blocks of the file (--activation-bits {activation_bits})"
    return f"{size} of {str(model.dtype).removeprefix('torch.')} (--dtype)"


def _log_sizes(size: ModelSize, limits: ExecutorLimits, num_threads: int) -> None:
    num_tokens = limits.num_pages * limits.page_size
    log.info(
        "Executor: cpu, %d threads. KV cache: %d tokens in %d pages, up to %d MB. Context: %d tokens",
        num_threads,
        num_tokens,
        limits.num_pages,
        num_tokens * size.kv_shape.bytes_per_token // 2**20,
        limits.context_length,
    )
