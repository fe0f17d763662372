"""Random weights for `--load-format dummy`: the shapes of a model without its files.

A tensor depends on the seed and its name alone, so that two runs, and two ranks, make the same model.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.loading.stored_tensor import Shape

if TYPE_CHECKING:
    import torch

STANDARD_DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """Normal values around 0, or around 1 for the weights of norms, which are the vectors that are not biases."""

    name: str
    shape: Shape
    seed: int = 0

    def load(self) -> torch.Tensor:
        """A float32 tensor of `shape`."""
        import torch

        generator = torch.Generator().manual_seed(self.seed ^ zlib.crc32(self.name.encode()))
        mean = 1.0 if len(self.shape) == 1 and not self.name.endswith(".bias") else 0.0
        return torch.empty(self.shape).normal_(mean, STANDARD_DEVIATION, generator=generator)

    def blocks(self) -> None:
        """Nothing: random weights are plain numbers."""
