"""What every weight file offers: tensors that are read only when asked for, so that a model never sits in memory twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from runtime.errors import LoadError

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


class StoredBlocks(NamedTuple):
    """A quantized tensor as its file keeps it: blocks of a format that GGUF names, row by row."""

    rows: torch.Tensor  # [rows, bytes per row] uint8
    format: str


class StoredTensor(Protocol):
    """One tensor of a weight file, not yet in memory."""

    @property
    def shape(self) -> Shape:
        """Row-major shape, as torch counts it."""
        ...

    def load(self) -> torch.Tensor:
        """A tensor of `shape` in a floating point type near the stored one. Raises `LoadError`."""
        ...

    def blocks(self) -> StoredBlocks | None:
        """The blocks of a quantized tensor; None if the file keeps plain numbers."""
        ...


StoredTensors = Mapping[str, StoredTensor]

UNNEEDED_SUFFIXES = (".rotary_emb.inv_freq", ".masked_bias")
"""Tables that some checkpoints carry and every model computes."""

_LAYER_PREFIX = re.compile(r".*?\.\d+\.")


def select(stored: StoredTensors, shapes: Mapping[str, Shape], path: Path) -> dict[str, StoredTensor]:
    """The tensor for each name in `shapes`.

    Raises `LoadError` if one is missing or has another shape, or if the file has more in a layer than the model asks for: a
    bias that is left out makes wrong text, not an error.
    """
    for name, shape in shapes.items():
        if name not in stored:
            raise LoadError(f"{path}: the tensor {name!r} is missing; the weights do not match the config")
        if stored[name].shape != shape:
            raise LoadError(f"{path}: the tensor {name!r} has the shape {stored[name].shape}, and the config asks for {shape}")
    layers = {match[0] for match in map(_LAYER_PREFIX.match, shapes) if match}
    for name in stored.keys() - shapes.keys():
        match = _LAYER_PREFIX.match(name)
        if match and match[0] in layers and not name.endswith(UNNEEDED_SUFFIXES):
            raise LoadError(f"{path}: the model has no place for the tensor {name!r}; the weights do not match the config")
    return {name: stored[name] for name in shapes}
