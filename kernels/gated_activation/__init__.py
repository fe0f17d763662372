"""The activation of a gated feed-forward layer: `act(gate) * up` on the output of one fused projection."""

from __future__ import annotations

from torch import Tensor

from kernels.gated_activation import reference


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up`, computed in float32.

    gate_up: [tokens, 2 * intermediate], the gate first, bfloat16 or float32, last dimension contiguous.
    Returns a new [tokens, intermediate] of the same dtype.
    """
    return reference.silu_and_mul(gate_up)


def gelu_and_mul(gate_up: Tensor, approximate: str = "tanh") -> Tensor:
    """`gelu(gate) * up`, computed in float32; shapes as in `silu_and_mul`.

    approximate: "tanh" (Hendrycks and Gimpel's formula) or "none" (the error function).
    """
    return reference.gelu_and_mul(gate_up, approximate)
