"""Where a served model comes from: its checkpoint on disk, and the memory that it needs. Implements `upkeep.Source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from runtime.config import ModelConfig
from runtime.errors import Conflict, InvalidRequest, LoadError
from runtime.layers.forward import KVCache
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.models.architectures import spec_for
from runtime.models.spec import weight_shapes

Model = TypeVar("Model")


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


class CheckpointSource(Generic[Model]):
    """`checkpoint` is what is served now; `load` makes a model of one, `allocate` its keys and values."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        load: Callable[[Checkpoint], Model],
        allocate: Callable[[], KVCache],
    ) -> None:
        self.allocate = allocate
        self._config = config
        self._checkpoint = checkpoint
        self._load = load

    def check_release(self) -> None:
        """All of it can be taken again."""

    def load(self, model_path: str | None, load_format: str | None) -> Model:
        """The weights of `model_path`, in the server's --dtype. Raises `LoadError`, `ConfigError` or `StartError`."""
        if model_path is None:
            return self._load(self._checkpoint)
        checkpoint = open_checkpoint(self._config_for(model_path, load_format))
        if _shapes(checkpoint) != _shapes(self._checkpoint):
            raise LoadError(f"{model_path} is another model: its weights do not have the shapes of those that are served")
        model = self._load(checkpoint)
        self._checkpoint = checkpoint
        return model

    def read(self, name: str, num_rows: int) -> Any:
        """See `upkeep.Source.read`; the values are those of the files, before any rounding to `--dtype`."""
        return _read(self._checkpoint, name, num_rows)

    def _config_for(self, model_path: str, load_format: str | None) -> ModelConfig:
        formats = ("auto", "safetensors", "gguf", "dummy")
        if load_format is not None and load_format not in formats:
            raise InvalidRequest(f"load_format must be one of {', '.join(formats)}", param="load_format")
        found = {"model_path": model_path, "load_format": load_format or "auto", "revision": None}
        return msgspec.structs.replace(self._config, **found)


def _read(checkpoint: Checkpoint, name: str, num_rows: int) -> Any:
    shapes = weight_shapes(spec_for(checkpoint.config))
    if name not in shapes:
        raise InvalidRequest(f"the model has no parameter {name!r:.200}", param="name")
    return checkpoint.tensors(shapes)[name].load()[:num_rows].float().tolist()


def _shapes(checkpoint: Checkpoint) -> tuple[object, ...]:
    """Everything that the executor's memory depends on."""
    spec = spec_for(checkpoint.config)
    return weight_shapes(spec), spec.num_kv_heads, spec.head_dim
