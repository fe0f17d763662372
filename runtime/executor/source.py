"""Where a served model comes from: its checkpoint on disk, and the memory that it needs. Implements `upkeep.Source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from runtime.config import ModelConfig
from runtime.errors import Conflict, InvalidRequest, LoadError
from runtime.executor.memory import return_freed_memory
from runtime.executor.step_runner import Model
from runtime.layers.forward import KVCache
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.models.architectures import spec_for
from runtime.models.captured import CapturedDecoder
from runtime.models.load import load_model
from runtime.models.spec import weight_shapes


class SharedSource:
    """Where rank 0's part of a model comes from. `num_ranks` share the model, and none can exchange its part by itself."""

    def __init__(self, checkpoint: Checkpoint, num_ranks: int) -> None:
        self._checkpoint = checkpoint
        self._num_ranks = num_ranks

    def check_release(self) -> NoReturn:
        """Raises `Conflict`."""
        raise Conflict(
            f"weights and memory can not be exchanged while {self._num_ranks} ranks share the model (--tp): restart the server"
        )

    def load(self, model_path: str | None, load_format: str | None) -> NoReturn:
        """Raises `Conflict`."""
        self.check_release()

    def read(self, name: str, num_rows: int) -> Any:
        """See `upkeep.Source.read`: the files are whole."""
        return _read(self._checkpoint, name, num_rows)

    def allocate(self) -> NoReturn:
        """Raises `Conflict`."""
        self.check_release()


class CheckpointSource:
    """`checkpoint` is what is served now; `allocate` makes its keys and values."""

    def __init__(
        self, config: ModelConfig, checkpoint: Checkpoint, num_positions: int, allocate: Callable[[], KVCache]
    ) -> None:
        self.allocate = allocate
        self._config = config
        self._checkpoint = checkpoint
        self._num_positions = num_positions

    def check_release(self) -> None:
        """All of it can be taken again."""

    def load(self, model_path: str | None, load_format: str | None) -> Model:
        """The weights of `model_path`, in the server's --dtype. Raises `LoadError`, `ConfigError` or `StartError`."""
        if model_path is None:
            return self._decoder(self._checkpoint)
        checkpoint = open_checkpoint(self._config_for(model_path, load_format))
        if _shapes(checkpoint) != _shapes(self._checkpoint):
            raise LoadError(f"{model_path} is another model: its weights do not have the shapes of those that are served")
        decoder = self._decoder(checkpoint)
        self._checkpoint = checkpoint
        return decoder

    def read(self, name: str, num_rows: int) -> Any:
        """See `upkeep.Source.read`; the values are those of the files, before any rounding to `--dtype`."""
        return _read(self._checkpoint, name, num_rows)

    def _config_for(self, model_path: str, load_format: str | None) -> ModelConfig:
        formats = ("auto", "safetensors", "gguf", "dummy")
        if load_format is not None and load_format not in formats:
            raise InvalidRequest(f"load_format must be one of {', '.join(formats)}", param="load_format")
        found = {"model_path": model_path, "load_format": load_format or "auto", "revision": None}
        return msgspec.structs.replace(self._config, **found)

    def _decoder(self, checkpoint: Checkpoint) -> CapturedDecoder:
        model = load_model(
            checkpoint,
            dtype=self._config.dtype,
            activation_bits=self._config.activation_bits,
            num_positions=self._num_positions,
            show_progress=False,
        )
        return_freed_memory()
        return CapturedDecoder(model)


def _read(checkpoint: Checkpoint, name: str, num_rows: int) -> Any:
    shapes = weight_shapes(spec_for(checkpoint.config))
    if name not in shapes:
        raise InvalidRequest(f"the model has no parameter {name!r:.200}", param="name")
    return checkpoint.tensors(shapes)[name].load()[:num_rows].float().tolist()


def _shapes(checkpoint: Checkpoint) -> tuple[object, ...]:
    """Everything that the executor's memory depends on."""
    spec = spec_for(checkpoint.config)
    return weight_shapes(spec), spec.num_kv_heads, spec.head_dim
