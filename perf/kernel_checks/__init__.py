"""How each kernel is called beside its reference, on random inputs of any device; one file per folder of kernels/.

A module offers `pairs(draw)`, which goes through the kernel's CASES and yields what the kernel gave and what the reference did.
Integers have to be equal; floats are compared by the size of their difference. `DEVICES` are those that the kernel is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """`name` says which case and output."""

    name: str
    actual: Tensor
    expected: Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """Random inputs: the same for the same seed, whatever the device."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """[shape] of `dtype`, by default the one that is checked."""
        return torch.randn(shape, generator=self.generator).to(self.device, dtype or self.dtype)

    def even(self, *shape: int) -> Tensor:
        """[shape] float32 in [0, 1)."""
        return torch.rand(shape, generator=self.generator).to(self.device)

    def below(self, limit: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """[shape] of integers in [0, limit)."""
        return torch.randint(limit, shape, generator=self.generator).to(self.device, dtype)

    def order(self, count: int) -> Tensor:
        """[count] int32: the numbers below `count`, shuffled."""
        return torch.randperm(count, generator=self.generator).to(self.device, torch.int32)

    def ints(self, *values: int) -> Tensor:
        """[values] int32."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)


def draw_on(device: torch.device, dtype: torch.dtype, seed: int) -> Draw:
    """A fresh source of inputs."""
    return Draw(device, dtype, torch.Generator().manual_seed(seed))
