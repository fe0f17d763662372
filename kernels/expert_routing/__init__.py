"""What a mixture of experts does around its products: choose experts, sort tokens by expert, add the experts' answers.

Nothing here waits for the device, and nothing is added in an order that depends on other tokens or on timing.
Shazeer and others, "Outrageously Large Neural Networks", 2017; Fedus and others, "Switch Transformers", 2021.
"""

from __future__ import annotations

from torch import Tensor

from kernels.expert_routing import reference
from kernels.expert_routing.order import ExpertOrder, max_tiles

__all__ = ["ExpertOrder", "combine", "max_tiles", "route", "sort_by_expert"]


def route(logits: Tensor, top_k: int, *, renormalise: bool, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """The `top_k` most probable experts of each token: weights [tokens, top_k] float32 and experts [tokens, top_k] int32.

    logits: [tokens, experts], any float type, contiguous; computed in float32. Most probable first, of equal ones the first.
    The weights are the experts' probabilities times `scale`; with `renormalise` they are made to sum to `scale`, which is also
    the softmax over the chosen logits alone. A token with a NaN gets valid experts and weights that are NaN.
    """
    assert 1 <= top_k <= logits.shape[1], "a token needs as many experts"
    if not logits.is_cuda:
        return reference.route(logits, top_k, renormalise=renormalise, scale=scale)
    from kernels.expert_routing import triton

    return triton.route(logits, top_k, renormalise=renormalise, scale=scale)


def sort_by_expert(experts: Tensor, num_experts: int, rows_per_tile: int) -> ExpertOrder:
    """A counting sort. experts: [tokens, top_k] int32, each below `num_experts`, contiguous. rows_per_tile: a power of two."""
    if not experts.is_cuda:
        return reference.sort_by_expert(experts, num_experts, rows_per_tile)
    from kernels.expert_routing import triton

    return triton.sort_by_expert(experts, num_experts, rows_per_tile)


def combine(answers: Tensor, weights: Tensor, order: ExpertOrder) -> Tensor:
    """[tokens, hidden]: each token's answers times their weights, added in float32 in the order of its experts, rounded once.

    answers: [rows, hidden], sorted by expert, contiguous. weights: [tokens, top_k] float32.
    """
    if not answers.is_cuda:
        return reference.combine(answers, weights, order)
    from kernels.expert_routing import triton

    return triton.combine(answers, weights, order)
