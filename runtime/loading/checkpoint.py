"""A model as the server sees it before any weight is loaded: its name, config, vocabulary and stored tensors.

Receives the model's section of the configuration. Importing this module and opening a checkpoint need no device library;
`tensors` does. Nothing here runs code from a model: pickled weights are refused and `auto_map` is not followed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.config import ModelConfig
from runtime.errors import ConfigError, LoadError
from runtime.loading import embedded, hub
from runtime.loading.gguf import read_gguf
from runtime.loading.gguf_model import config_of, tensors_of
from runtime.loading.random_weights import RandomTensor
from runtime.loading.safetensors import read_safetensors
from runtime.loading.stored_tensor import Shape, StoredTensor, StoredTensors, select
from runtime.loading.vocabulary import Vocabulary, from_folder, from_gguf, ids_from_folder

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model. `config` has the keys of a Hugging Face config.json, overrides applied."""

    name: str
    path: Path
    config: Mapping[str, Any]
    _read_vocabulary: Callable[[], Vocabulary]
    _read_tensors: Callable[[], StoredTensors] | None
    """None: random weights."""

    def vocabulary(self) -> Vocabulary:
        """The tokenizer and its special tokens. Raises `LoadError`."""
        return self._read_vocabulary()

    def tensors(self, shapes: Mapping[str, Shape], device: str = "cpu") -> dict[str, StoredTensor]:
        """The stored tensor for each name in `shapes`. Raises `LoadError` if the files do not have exactly these.

        device: where random weights are made; what is read from files comes to the CPU.
        """
        if self._read_tensors is None:
            return {name: RandomTensor(name, shape, device=device) for name, shape in shapes.items()}
        return select(self._read_tensors(), shapes, self.path)


def open_checkpoint(config: ModelConfig) -> Checkpoint:
    """Find the model, download it if it is not here, read its config. Raises `LoadError`, `StartError` or `ConfigError`."""
    path = _find(config)
    open_path = _open_gguf if path.is_file() else _open_folder
    return open_path(config, path)


def _find(config: ModelConfig) -> Path:
    if config.model_path is None:
        return embedded.embedded_model()
    return hub.resolve(
        config.model_path,
        revision=config.revision,
        download_dir=config.download_dir,
        with_weights=config.load_format != "dummy",
    )


def _open_gguf(config: ModelConfig, path: Path) -> Checkpoint:
    if config.load_format == "safetensors":
        raise ConfigError(f"--load-format safetensors does not fit {path}, which is a GGUF file")
    file = read_gguf(path)
    stored_config = config_of(file)
    return Checkpoint(
        name=config.model_path or embedded.MODEL_NAME,
        path=path,
        config=stored_config | _overrides(config),
        _read_vocabulary=_vocabulary_reader(config, path),
        _read_tensors=None if config.load_format == "dummy" else lambda: tensors_of(file, stored_config),
    )


def _open_folder(config: ModelConfig, path: Path) -> Checkpoint:
    if config.load_format == "gguf":
        raise ConfigError(f"--load-format gguf does not fit {path}, which is a folder: give the .gguf file in it")
    stored_config = _read_config(path) | _overrides(config)
    if config.load_format != "dummy":
        _refuse_quantized(path, stored_config)
    return Checkpoint(
        name=config.model_path or path.name,
        path=path,
        config=stored_config,
        _read_vocabulary=_vocabulary_reader(config, path),
        _read_tensors=None if config.load_format == "dummy" else lambda: read_safetensors(path),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise LoadError(f"{folder} has no {CONFIG_FILE}: give the folder of a Hugging Face model or a .gguf file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} can not be read: {error!s:.120}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path} must hold a JSON object")
    return config


def _overrides(config: ModelConfig) -> dict[str, Any]:
    try:
        overrides = json.loads(config.json_model_override_args)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--json-model-override-args is not JSON: {error}") from error
    if not isinstance(overrides, dict):
        raise ConfigError("--json-model-override-args must be a JSON object")
    return overrides


def _refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise LoadError(f"{path}: weights quantized with {method!r:.40} can not be read; use the model in bf16 or as GGUF")


def _vocabulary_reader(config: ModelConfig, model_path: Path) -> Callable[[], Vocabulary]:
    """Reads the model's own vocabulary, or the one that --tokenizer-path names, or only what is needed for token ids."""
    if config.skip_tokenizer_init:
        return lambda: _read_vocabulary(model_path).of_ids() if model_path.is_file() else ids_from_folder(model_path)
    if config.tokenizer_path is None:
        return lambda: _read_vocabulary(model_path)
    path = hub.resolve(config.tokenizer_path, download_dir=config.download_dir, with_weights=False, flag="--tokenizer-path")
    return lambda: _read_vocabulary(path)


def _read_vocabulary(path: Path) -> Vocabulary:
    return from_gguf(read_gguf(path).metadata) if path.is_file() else from_folder(path)
