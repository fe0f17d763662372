"""Which device `--device` means on this machine, and whether the other flags go with it."""

from __future__ import annotations

import torch

from runtime.config import Config
from runtime.errors import ConfigError
from runtime.layers.placement import CPU


def choose_device(config: Config) -> torch.device:
    """Raises `ConfigError` if there is no such device, or if a flag asks for what it does not do."""
    executor = config.executor
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    shares_model = config.parallel.tp_size > 1
    if executor.device == "cpu" or (executor.device == "auto" and (num_gpus == 0 or shares_model)):
        _check_cpu(config)
        return CPU
    if num_gpus == 0:
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU here; install a driver and PyTorch for CUDA, or use --device cpu"
        )
    if shares_model:
        raise ConfigError("--tp is for --device cpu: a model on GPUs is not shared among ranks yet; use --tp 1 or --device cpu")
    if executor.base_gpu_id >= num_gpus:
        raise ConfigError(f"--base-gpu-id {executor.base_gpu_id}: there are {num_gpus} GPUs, counted from 0")
    _check_cuda(config)
    return torch.device("cuda", executor.base_gpu_id)


def _check_cpu(config: Config) -> None:
    backend = config.executor.attention_backend
    if backend not in (None, "torch_native"):
        raise ConfigError(f"--attention-backend {backend} needs a GPU; leave the flag out on a CPU")


def _check_cuda(config: Config) -> None:
    backend = config.executor.attention_backend
    if backend == "flashinfer":
        raise ConfigError("--attention-backend flashinfer is not built into this server: use triton, which is the default")
    if backend == "torch_native" and config.executor.enable_deterministic_inference:
        raise ConfigError("--enable-deterministic-inference needs --attention-backend triton")
