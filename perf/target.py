"""What a benchmark of steps runs on: a model, the server's flags for it, and what its numbers weigh."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from perf import shapes
from perf.measurement import Costs
from perf.network import network_of
from runtime import command_line
from runtime.config import Config
from runtime.executor.device_choice import choose_device
from runtime.executor.thread_count import num_usable_cores
from runtime.layers.precision import compute_dtype, device_dtype
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.models.architectures import spec_for

PROG = "python -m perf.step_bench"


@dataclass(frozen=True, slots=True)
class Target:
    """`name` is the shape's or the model's."""

    name: str
    config: Config
    checkpoint: Checkpoint

    @property
    def device(self) -> torch.device:
        """Where `--device` puts the model. Raises `ConfigError` if there is no such device."""
        return choose_device(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        name = self.config.model.dtype
        if self.device.type == "cpu":
            return compute_dtype(name)
        return device_dtype(name, has_bfloat16=torch.cuda.get_device_capability(self.device) >= (8, 0))

    @property
    def num_threads(self) -> int:
        """Of a model on a CPU."""
        return self.config.executor.num_threads or num_usable_cores()

    def costs(self) -> Costs:
        """The blocks of a GGUF file weigh what the file weighs."""
        network = network_of(self.checkpoint.config)
        keeps_blocks = self.config.model.dtype == "auto" and self.config.model.load_format != "dummy"
        is_gguf = self.checkpoint.path.is_file() and keeps_blocks
        weight_bytes = self.checkpoint.path.stat().st_size / network.num_weights if is_gguf else self.dtype.itemsize
        return Costs(network, weight_bytes, self.dtype.itemsize)


@contextlib.contextmanager
def target(shape: str | None, flags: Sequence[str]) -> Iterator[Target]:
    """A shape with random weights, or the model that the flags name.

    Raises `ConfigError` about flags, and `LoadError` about a model, also when its architecture is not served.
    """
    with tempfile.TemporaryDirectory() as folder:
        if shape is not None:
            shapes.write_folder(shape, Path(folder))
            flags = [*flags, "--model-path", folder, "--load-format", "dummy"]
        config = command_line.parse(flags, prog=PROG)
        checkpoint = open_checkpoint(config.model)
        spec_for(checkpoint.config)
        yield Target(shape or Path(checkpoint.name).stem, config, checkpoint)
