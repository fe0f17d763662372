"""RMS normalisation in torch: the definition that the other implementations are checked against.

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` over the last dimension, computed in float32, rounded once to x's dtype."""
    wide = x.float()  # [tokens, hidden]
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)  # [tokens, 1]
    return (wide * scale * weight.float()).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Adds `x` to `residual` in place, rounds the sum to residual's dtype, and returns its normalisation."""
    residual.copy_(residual.float() + x.float())
    return rms_norm(residual, weight, eps)
