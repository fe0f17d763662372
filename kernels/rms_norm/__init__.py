"""RMS normalisation, alone or fused with the residual addition before it."""

from __future__ import annotations

from torch import Tensor

from kernels.rms_norm import reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight`, computed in float32.

    x: [tokens, hidden] bfloat16 or float32, last dimension contiguous. weight: [hidden] bfloat16 or float32.
    Returns a new [tokens, hidden] of x's dtype. A token's result does not depend on the other tokens.
    """
    return reference.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Adds `x` to `residual` in place and returns `rms_norm(residual, weight, eps)`.

    x, residual: [tokens, hidden], one dtype. The sum is rounded to that dtype before it is normalised.
    """
    return reference.add_rms_norm(x, residual, weight, eps)
