"""A mixture of experts: of many small feed-forward layers each token goes through the few that a router chooses for it.

The invariant: a token's result does not depend, bit for bit, on the other tokens of the batch. Which tokens an expert gets
together does not matter to its products, and a token's answers are added in the order in which its experts were chosen.
Shazeer and others, "Outrageously Large Neural Networks", 2017; the shared expert: Dai and others, "DeepSeekMoE", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.expert_routing import ExpertOrder, combine, route, sort_by_expert
from kernels.gather_rows import gather_rows
from runtime.layers.gated_mlp import GatedMlp
from runtime.layers.linear import Linear


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """An expert that every token goes through, as much as its gate lets through."""

    mlp: GatedMlp
    gate: Linear  # one output

    @property
    def products(self) -> list[Linear]:
        return [*self.mlp.products, self.gate]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden_size] → [tokens, hidden_size] float32"""
        logits = self.gate(hidden).float()  # [tokens, 1]
        # The sigmoid as a softmax beside 0: torch's own has other bits for the last tokens of a batch.
        share = torch.softmax(torch.nn.functional.pad(logits, (0, 1)), dim=-1)[:, :1]  # [tokens, 1]
        return share * self.mlp(hidden).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """`top_k` experts for each token, weighted with their probabilities, which with `renormalise` sum to 1."""

    router: Linear  # one output per expert
    experts: tuple[GatedMlp, ...]
    top_k: int
    renormalise: bool
    shared: SharedExpert | None

    @property
    def products(self) -> list[Linear]:
        shared = [] if self.shared is None else self.shared.products
        return [self.router, *shared, *(product for expert in self.experts for product in expert.products)]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden_size] → [tokens, hidden_size]"""
        weights, experts = route(self.router(hidden), self.top_k, renormalise=self.renormalise)  # [tokens, top_k] each
        order = sort_by_expert(experts, len(self.experts), rows_per_tile=experts.numel())
        mixed = combine(self._answers(hidden, order), weights, order)
        return mixed if self.shared is None else (mixed.float() + self.shared(hidden)).to(hidden.dtype)

    def _answers(self, hidden: Tensor, order: ExpertOrder) -> Tensor:
        """[tokens * top_k, hidden_size], sorted by expert. Only experts that are wanted read their weights."""
        rows = gather_rows(hidden, (order.pairs // order.top_k).long())  # [tokens * top_k, hidden_size]
        starts = order.starts.tolist()
        answers = torch.empty_like(rows)
        for expert, start, end in zip(self.experts, starts, starts[1:], strict=False):
            if start < end:
                answers[start:end] = expert(rows[start:end])
        return answers
