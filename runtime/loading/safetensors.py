"""The safetensors files of a Hugging Face folder: one file, or shards named by model.safetensors.index.json.

Receives a folder; opens every shard's header at once, so that a missing, cut or corrupt file is told before anything is
loaded. Tensors are views into mapped files. Files that can run code when they are read (.bin, .pt) are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from runtime.errors import LoadError
from runtime.loading.stored_tensor import Shape

if TYPE_CHECKING:
    import torch

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor of an open shard."""

    name: str
    shape: Shape
    dtype: str
    shard: Any

    def load(self) -> torch.Tensor:
        """The values in their stored type. Raises `LoadError` when these are not floating point numbers."""
        if self.dtype not in FLOAT_TYPES:
            raise LoadError(f"tensor {self.name!r} is stored as {self.dtype}: quantized checkpoints can not be read")
        values: torch.Tensor = self.shard.get_tensor(self.name)
        return values

    def blocks(self) -> None:
        """Nothing: quantized checkpoints are refused."""


def read_safetensors(folder: Path) -> dict[str, SafetensorsTensor]:
    """All tensors of `folder` by name. Raises `LoadError` on a missing, cut or corrupt file."""
    index = folder / INDEX_FILE
    if index.is_file():
        return _read_shards(folder, _read_index(index))
    tensors: dict[str, SafetensorsTensor] = {}
    for path in _weight_files(folder):
        tensors |= _read_file(path)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(path.suffix in UNSAFE_SUFFIXES for path in folder.iterdir()):
        raise LoadError(f"{folder} has only pickled weights (.bin, .pt), which can run code: convert them to safetensors")
    raise LoadError(f"{folder} has no .safetensors files; use --load-format dummy for random weights")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        names = dict(weight_map.items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{path} is not a valid index of weight files: {error!r:.100}") from error
    for file_name in names.values():
        if not isinstance(file_name, str) or Path(file_name).name != file_name or not file_name.endswith(".safetensors"):
            raise LoadError(f"{path} names {file_name!r:.60}, which is not a .safetensors file of this folder")
    return names


def _read_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, SafetensorsTensor]:
    shards = {file_name: _read_file(folder / file_name) for file_name in sorted(set(weight_map.values()))}
    tensors = {}
    for name, file_name in weight_map.items():
        if name not in shards[file_name]:
            raise LoadError(f"{folder / file_name} lacks the tensor {name!r} that {INDEX_FILE} names; download it again")
        tensors[name] = shards[file_name][name]
    return tensors


def _read_file(path: Path) -> dict[str, SafetensorsTensor]:
    if not path.is_file():
        raise LoadError(f"the weight file {path} is missing; download the model again")
    try:
        shard: Any = safe_open(path, framework="pt")
        return {name: _view(shard, name) for name in list(shard.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{path} is not a whole, valid safetensors file ({error!s:.120}); download it again") from error


def _view(shard: Any, name: str) -> SafetensorsTensor:
    part = shard.get_slice(name)
    return SafetensorsTensor(name, tuple(part.get_shape()), part.get_dtype(), shard)
