"""New weights in the memory of the old ones: a model on a device fills it, so that there is no room for a second one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from torch import Tensor

from runtime.models.decoder import Decoder


def overwrite(model: Decoder, other: Decoder) -> None:
    """Copy all numbers of `other` to where those of `model` are. Both are plain, and of the same shapes."""
    pairs = list(zip(tensors_of(model), tensors_of(other), strict=True))
    assert all(old.shape == new.shape for old, new in pairs), "whoever loads new weights checks their shapes"
    for old, new in pairs:
        old.copy_(new)


def tensors_of(part: object) -> Iterator[Tensor]:
    """Every tensor in a module and the modules in it, in the order of their fields."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for member in part:
            yield from tensors_of(member)
    elif is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))
