"""The gated feed-forward layer: down(act(gate(x)) * up(x))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels.gated_activation import gelu_and_mul, silu_and_mul
from runtime.layers.linear import Linear


def _gelu_erf_and_mul(gate_up: Tensor) -> Tensor:
    return gelu_and_mul(gate_up, "none")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu_and_mul,
    "gelu": _gelu_erf_and_mul,
    "gelu_tanh": gelu_and_mul,
}


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """`gate_up` has the rows of the gate first."""

    gate_up: Linear
    down: Linear
    activation: Callable[[Tensor], Tensor]

    @property
    def products(self) -> list[Linear]:
        return [self.gate_up, self.down]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden_size] → [tokens, hidden_size]"""
        return self.down(self.activation(self.gate_up(hidden)))
