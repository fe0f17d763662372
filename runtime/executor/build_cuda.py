"""From a checkpoint to an executor on a GPU: load the model there, measure a step, and give the cache what is left."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import torch

from runtime.clock import SystemClock
from runtime.config import Config, ModelConfig
from runtime.errors import ConfigError
from runtime.executor.cuda import CudaExecutor
from runtime.executor.cuda_port import CudaPort
from runtime.executor.device_memory import MEGABYTE, NUM_SCRATCH_PAGES, measure_footprint, size_device
from runtime.executor.device_port import DevicePort
from runtime.executor.device_runner import DeviceModel, DeviceRunner
from runtime.executor.extras import Extensions
from runtime.executor.graphs import make_buckets
from runtime.executor.memory import DEFAULT_NUM_SLOTS, ModelSize, model_size
from runtime.executor.port import ExecutorLimits
from runtime.executor.source import CheckpointSource
from runtime.layers.forward import KVCache
from runtime.layers.placement import CPU, Placement, on_device
from runtime.loading.checkpoint import Checkpoint
from runtime.models.decoder import Decoder
from runtime.models.exchange import overwrite
from runtime.models.load import load_model

log = logging.getLogger(__name__)


def build_cuda_executor(config: Config, checkpoint: Checkpoint, extensions: Extensions, device: torch.device) -> CudaExecutor:
    """An executor that waits for `start`. Raises `LoadError` about the model and `ConfigError` about memory."""
    placement = on_device(
        device,
        has_bfloat16=torch.cuda.get_device_capability(device) >= (8, 0),
        is_invariant=config.executor.enable_deterministic_inference,
        attention_backend=config.executor.attention_backend or "triton",
    )
    return build_on(CudaPort(device), config, checkpoint, extensions, placement)


def build_on(
    port: DevicePort, config: Config, checkpoint: Checkpoint, extensions: Extensions, placement: Placement
) -> CudaExecutor:
    """The same on any port; `placement` is the one of its device."""
    with port.attached(), torch.inference_mode():
        model = _load(config.model, config.model.context_length, placement, checkpoint, show_progress=True)
        port.finish()  # weights came in streams of their own
        port.give_back()
        buckets = graph_buckets(config)
        size = model_size(model)
        limits = _limits(config, size, model, port, buckets)
        allocate = partial(_allocate, size, limits, port.device)
        runner = DeviceRunner(model, allocate(), limits, port, SystemClock(), extensions, buckets=buckets)
    _log_sizes(size, limits, model, port, buckets)
    load = partial(_load_again, runner, config.model, model.num_positions, placement)
    return CudaExecutor(runner, limits, port, CheckpointSource[DeviceModel](config.model, checkpoint, load, allocate))


def graph_buckets(config: Config) -> tuple[int, ...]:
    """The sizes to record: no larger than a step can be. PyTorch's own attention waits for the device, which no graph can."""
    executor = config.executor
    if executor.disable_cuda_graph or executor.attention_backend == "torch_native":
        return ()
    return make_buckets(min(executor.cuda_graph_max_bs, config.scheduler.max_running_requests or DEFAULT_NUM_SLOTS))


def _load(
    config: ModelConfig, num_positions: int | None, placement: Placement, checkpoint: Checkpoint, *, show_progress: bool
) -> Decoder:
    return load_model(
        checkpoint, dtype=config.dtype, num_positions=num_positions, show_progress=show_progress, placement=placement
    )


def _load_again(
    runner: DeviceRunner, config: ModelConfig, num_positions: int, placement: Placement, checkpoint: Checkpoint
) -> Decoder:
    """New weights are completed on the host and then copied over the old ones; graphs need not be recorded."""
    resident = runner.model
    if not isinstance(resident, Decoder):
        return _load(config, num_positions, placement, checkpoint, show_progress=False)
    staged = _load(config, num_positions, replace(placement, device=CPU), checkpoint, show_progress=False)
    overwrite(resident, staged)
    return resident


def _limits(config: Config, size: ModelSize, model: Decoder, port: DevicePort, buckets: tuple[int, ...]) -> ExecutorLimits:
    try:
        footprint = measure_footprint(config, size, model, port, SystemClock(), buckets)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "the GPU has not enough memory for a step beside the weights: use a smaller model or --dtype half, or lower"
            " --chunked-prefill-size or --max-running-requests"
        ) from error
    port.give_back()
    return size_device(config, size, port.memory(), footprint)


def _allocate(size: ModelSize, limits: ExecutorLimits, device: torch.device) -> KVCache:
    return size.kv_shape.allocate(limits.num_pages + NUM_SCRATCH_PAGES, limits.page_size, device)


def _log_sizes(size: ModelSize, limits: ExecutorLimits, model: Decoder, port: DevicePort, buckets: tuple[int, ...]) -> None:
    num_tokens = limits.num_pages * limits.page_size
    log.info(
        "Executor: %s. Weights: %d MB of %s. KV cache: %d tokens in %d pages, %d MB. Context: %d tokens. CUDA graphs: %s",
        port.device,
        size.weight_bytes // MEGABYTE,
        str(model.dtype).removeprefix("torch."),
        num_tokens,
        limits.num_pages,
        num_tokens * size.kv_shape.bytes_per_token // MEGABYTE,
        limits.context_length,
        f"up to {buckets[-1]} sequences" if buckets else "none",
    )
