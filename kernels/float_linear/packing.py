"""How plain weights lie in memory for the C kernel: in panels of 32 outputs, so that a row of inputs meets them in one walk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PANEL = 32


@dataclass(frozen=True, slots=True)
class PackedPanels:
    """A weight of `num_outputs` rows and `num_inputs` columns; its logical shape, and its values in the kernel's order."""

    values: Tensor
    """bfloat16: [panels, ceil(inputs / 2), 32, 2]; float32: [panels, inputs, 32]; outputs and inputs padded with zeros."""
    num_inputs: int
    num_outputs: int


def pack_panels(weight: Tensor) -> PackedPanels:
    """weight: [outputs, inputs] bfloat16 or float32, both at least 1."""
    num_outputs, num_inputs = weight.shape
    step = 2 if weight.dtype is torch.bfloat16 else 1  # inputs that one instruction takes
    padded = torch.nn.functional.pad(weight, (0, -num_inputs % step, 0, -num_outputs % PANEL))
    panels = padded.view(-1, PANEL, padded.shape[1] // step, step)  # [panels, 32, steps, step]
    return PackedPanels(panels.transpose(1, 2).contiguous(), num_inputs, num_outputs)
