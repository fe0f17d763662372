"""Random weights for `--load-format dummy`: the shapes of a model without its files.

A number depends on the seed, the tensor's name and its place in it alone, so that two runs, two ranks and two kinds of device
make the same model. They are made on the device that needs them: nothing large is drawn on the host or copied from it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.loading.stored_tensor import Shape

if TYPE_CHECKING:
    import torch

STANDARD_DEVIATION = 0.02
_FULL_RANGE = 2.0**32
_WIDTH = STANDARD_DEVIATION * 12**0.5
"""An even distribution of this width has that deviation."""
_CHUNK_NUMBERS = {"cpu": 2**16}
_LARGE_CHUNK_NUMBERS = 2**24
"""What is worked on at once stays in a CPU's cache, and gives a GPU enough to do."""


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """Even values around 0, or around 1 for the weights of norms, which are the vectors that are not biases."""

    name: str
    shape: Shape
    seed: int = 0
    device: str = "cpu"

    def load(self) -> torch.Tensor:
        """A float32 tensor of `shape` on `device`."""
        import torch

        out = torch.empty(self.shape, device=self.device)
        seed = zlib.crc32(self.name.encode(), self.seed)
        flat, at_once = out.view(-1), _CHUNK_NUMBERS.get(out.device.type, _LARGE_CHUNK_NUMBERS)
        for first in range(0, flat.numel(), at_once):
            last = min(first + at_once, flat.numel())
            flat[first:last] = _random_bits(first, last, seed, out.device)
        out *= _WIDTH / _FULL_RANGE
        return out.add_(1.0) if len(self.shape) == 1 and not self.name.endswith(".bias") else out

    def blocks(self) -> None:
        """Nothing: random weights are plain numbers."""


def _random_bits(first: int, last: int, seed: int, device: torch.device) -> torch.Tensor:
    """[last - first] int32, each hashed from its place.

    The rounds are those of Mueller's and Wellons' hashes (nullprogram.com/blog/2018/07/31), with the seed after the first.
    """
    import torch

    bits = torch.arange(first, last, dtype=torch.int32, device=device)
    _mix(bits, 16, 0x7FEB352D)
    bits += (seed + 2**31) % 2**32 - 2**31  # the int32 with the same bits
    _mix(bits, 15, 0x2C1B3C6D)
    _mix(bits, 16, 0x297A2D39)
    return bits


def _mix(bits: torch.Tensor, shift: int, factor: int) -> None:
    """One round in place; products wrap around."""
    bits ^= (bits >> shift) & (0xFFFFFFFF >> shift)  # torch's shift keeps the sign
    bits *= factor
    bits ^= (bits >> 15) & 0x1FFFF
