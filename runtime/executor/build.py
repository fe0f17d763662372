"""From a checkpoint to an executor: load the model, size the cache for what memory is left, and put both together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from runtime.clock import SystemClock
from runtime.config import Config, ModelConfig
from runtime.executor.build_cuda import build_cuda_executor
from runtime.executor.cpu import CpuExecutor
from runtime.executor.cuda import CudaExecutor
from runtime.executor.device_choice import choose_device
from runtime.executor.extras import NO_GRAMMARS, Extensions
from runtime.executor.led_model import LedModel, Send
from runtime.executor.memory import (
    ModelSize,
    allocate_kv,
    free_memory_bytes,
    model_size,
    return_freed_memory,
    size_limits,
)
from runtime.executor.order_worker import OrderWorker
from runtime.executor.port import ExecutorLimits
from runtime.executor.shared_limits import agree_on_limits, check_same_model
from runtime.executor.source import CheckpointSource, SharedSource
from runtime.executor.thread_count import choose_num_threads, num_usable_cores
from runtime.layers.forward import KVCache
from runtime.layers.placement import CPU
from runtime.layers.rank_group import RankGroup
from runtime.loading.checkpoint import Checkpoint
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from runtime.sampling.logit_processor import load_processors
from runtime.sampling.matcher import MatcherSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that share the model, as rank 0 sees them."""

    group: RankGroup
    send: Send
    """Brings an order to every other rank."""


def build_executor(
    config: Config, checkpoint: Checkpoint, matchers: MatcherSource = NO_GRAMMARS, ranks: Ranks | None = None
) -> CpuExecutor | CudaExecutor:
    """An executor that waits for `start`. `matchers`: the store that the Grammar actor fills. `ranks`: None is this one alone.

    Raises `LoadError` about the model and `ConfigError` about the device, the cache and the logit processors.
    """
    processors = load_processors(config.executor.logit_processor)
    extensions = Extensions(matchers, processors, jumps_forward=not config.executor.disable_jump_forward)
    device = choose_device(config)
    if device != CPU:
        return build_cuda_executor(config, checkpoint, extensions, device)
    if ranks is not None:
        return _build_led_executor(config, checkpoint, extensions, ranks)
    model = _load_whole(config.model, checkpoint, config.model.context_length)
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
        extensions=extensions,
        source=CheckpointSource(config.model, checkpoint, partial(_load_again, config.model, model.num_positions), allocate),
    )


def _load_again(config: ModelConfig, num_positions: int, checkpoint: Checkpoint) -> CapturedDecoder:
    return CapturedDecoder(_load_whole(config, checkpoint, num_positions, show_progress=False))


def _load_whole(
    config: ModelConfig, checkpoint: Checkpoint, num_positions: int | None, *, show_progress: bool = True
) -> Decoder:
    model = load_model(
        checkpoint,
        dtype=config.dtype,
        activation_bits=config.activation_bits,
        num_positions=num_positions,
        show_progress=show_progress,
    )
    return_freed_memory()
    return model


def build_order_worker(config: Config, checkpoint: Checkpoint, group: RankGroup) -> OrderWorker:
    """What a rank that follows computes with; it waits for `start`. All ranks have to be built at the same time.

    Raises like `build_executor`, and `RankLost` if another rank does not come as far.
    """
    part = _load_part(config, checkpoint, group)
    return OrderWorker(
        part.model, part.kv, part.limits, group, num_threads=part.num_threads, num_torch_threads=part.num_torch_threads
    )


def _build_led_executor(config: Config, checkpoint: Checkpoint, extensions: Extensions, ranks: Ranks) -> CpuExecutor:
    part = _load_part(config, checkpoint, ranks.group)
    return CpuExecutor(
        LedModel(part.model, ranks.group, ranks.send),
        part.kv,
        part.limits,
        num_threads=part.num_threads,
        num_torch_threads=part.num_torch_threads,
        extensions=extensions,
        source=SharedSource(checkpoint, ranks.group.size),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What a rank computes with, whether it leads or follows."""

    model: Decoder
    kv: KVCache
    limits: ExecutorLimits
    num_threads: int
    num_torch_threads: int


def _load_part(config: Config, checkpoint: Checkpoint, group: RankGroup) -> _Part:
    """This rank's weights and its part of a cache that has as many pages on all ranks."""
    check_same_model(group, config, checkpoint)
    model = load_model(
        checkpoint,
        dtype=config.model.dtype,
        activation_bits=config.model.activation_bits,
        num_positions=config.model.context_length,
        show_progress=group.rank == 0,
        group=group,
    )
    return_freed_memory()
    size = model_size(model)
    limits = agree_on_limits(group, config, lambda: size_limits(config, size, free_memory_bytes() // group.num_local))
    num_threads = config.executor.num_threads or max(1, num_usable_cores() // group.num_local)
    _log_sizes(size, limits, num_threads)
    log.info("Rank %d of %d. Its weights: %s", group.rank, group.size, _describe_weights(model, config.model.activation_bits))
    kv = allocate_kv(size.kv_shape, limits.num_pages, limits.page_size)
    return _Part(model, kv, limits, num_threads, 1 if model.computes_in_kernels else num_threads)


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
