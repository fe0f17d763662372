"""The product in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

from torch import Tensor


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, summed in float32 and rounded once to x's dtype."""
    product = x.float() @ weight.float().T  # [rows, outputs]
    return (product if bias is None else product + bias.float()).to(x.dtype)
