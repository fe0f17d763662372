"""A mixture of experts whose products run in one launch for all experts: the form for a GPU.

It never asks which experts are wanted, so that the host does not wait for the device and a CUDA graph can hold it. The answers
are those of `moe.MixtureOfExperts`, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels.expert_routing import combine, route, sort_by_expert
from kernels.grouped_linear import grouped_linear, rows_per_tile
from runtime.layers.linear import Linear, PlainLinear
from runtime.layers.moe import SharedExpert


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMixture:
    """`top_k` experts for each token, weighted with their probabilities, which with `renormalise` sum to 1."""

    router: Linear  # one output per expert
    gate_up: Tensor  # [experts, 2 * intermediate, hidden_size], the rows of the gate first
    down: Tensor  # [experts, hidden_size, intermediate]
    activation: Callable[[Tensor], Tensor]
    top_k: int
    renormalise: bool
    shared: SharedExpert | None
    is_invariant: bool
    """A token's bits do not depend on how many others are in the batch."""

    @property
    def products(self) -> list[Linear]:
        """The experts' weights count as if they were below each other."""
        shared = [] if self.shared is None else self.shared.products
        stacks = (PlainLinear(stack.flatten(0, 1), None) for stack in (self.gate_up, self.down))
        return [self.router, *shared, *stacks]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden_size] → [tokens, hidden_size]"""
        num_experts = self.gate_up.shape[0]
        weights, experts = route(self.router(hidden), self.top_k, renormalise=self.renormalise)  # [tokens, top_k] each
        num_rows = rows_per_tile(experts.numel(), num_experts, is_deterministic=self.is_invariant)
        order = sort_by_expert(experts, num_experts, num_rows)
        inner = self.activation(grouped_linear(hidden, self.gate_up, order, from_tokens=True))  # [pairs, intermediate]
        mixed = combine(grouped_linear(inner, self.down, order, from_tokens=False), weights, order)
        return mixed if self.shared is None else (mixed.float() + self.shared(hidden)).to(hidden.dtype)
