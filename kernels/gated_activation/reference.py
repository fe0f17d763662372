"""Gated activations in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up`, computed in float32, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)  # [tokens, intermediate] each
    return (functional.silu(gate) * up).to(gate_up.dtype)


def gelu_and_mul(gate_up: Tensor, approximate: str) -> Tensor:
    """`gelu(gate) * up`, computed in float32, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)  # [tokens, intermediate] each
    return (functional.gelu(gate, approximate=approximate) * up).to(gate_up.dtype)
