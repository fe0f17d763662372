"""Where a model's weights lie and which kernels compute with them, decided once when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.paged_attention import paged_attention, reference

AttentionKernel = Callable[..., Tensor]
"""As `kernels.paged_attention.paged_attention`."""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Placement:
    """By default on the host. `is_invariant`: on a GPU a row's bits do not depend on the other rows; on a CPU they never do."""

    device: torch.device = CPU
    is_plain: bool = False
    """Weights stay as PyTorch keeps them: the only form on a GPU."""
    has_bfloat16: bool = True
    """For a GPU: it computes in bfloat16."""
    is_invariant: bool = False
    attention: AttentionKernel = paged_attention


ON_HOST = Placement()


def on_device(device: torch.device, *, has_bfloat16: bool, is_invariant: bool, attention_backend: str) -> Placement:
    """attention_backend: triton, or torch_native for PyTorch's own operations, which wait for the device at each layer."""
    kernel: AttentionKernel = reference.paged_attention
    if attention_backend == "triton":
        kernel = partial(paged_attention, invariant=True) if is_invariant else paged_attention
    return Placement(device, True, has_bfloat16, is_invariant, kernel)
