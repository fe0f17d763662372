"""Routing in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.expert_routing.order import ExpertOrder, max_tiles


def route(logits: Tensor, top_k: int, *, renormalise: bool, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights [tokens, top_k] float32 and experts [tokens, top_k] int32, the most probable first."""
    probabilities = torch.softmax(logits.float(), dim=-1)  # [tokens, experts]
    experts = torch.sort(probabilities, dim=-1, descending=True, stable=True).indices[:, :top_k]  # [tokens, top_k]
    weights = probabilities.gather(1, experts)
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights * scale, experts.int()


def sort_by_expert(experts: Tensor, num_experts: int, rows_per_tile: int) -> ExpertOrder:
    """A stable sort of the pairs by expert, and tiles of it. experts: [tokens, top_k] int32."""
    flat = experts.flatten()  # [pairs]
    pairs = torch.sort(flat, stable=True).indices  # [pairs]
    rows = torch.empty_like(pairs)
    rows[pairs] = torch.arange(pairs.shape[0], device=pairs.device)
    counts = torch.bincount(flat, minlength=num_experts)  # [experts]
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()  # [experts + 1]
    tile_experts, tile_starts = _tiles(starts, flat.shape[0], rows_per_tile)
    return ExpertOrder(starts, pairs.int(), rows.view(experts.shape).int(), tile_experts, tile_starts, rows_per_tile)


def _tiles(starts: Tensor, num_pairs: int, rows_per_tile: int) -> tuple[Tensor, Tensor]:
    edges = starts.tolist()
    tiles = [
        (expert, row) for expert in range(len(edges) - 1) for row in range(edges[expert], edges[expert + 1], rows_per_tile)
    ]
    tiles += [(-1, 0)] * (max_tiles(num_pairs, len(edges) - 1, rows_per_tile) - len(tiles))
    experts_and_rows = torch.tensor(tiles, dtype=torch.int32, device=starts.device).view(-1, 2)
    return experts_and_rows[:, 0].contiguous(), experts_and_rows[:, 1].contiguous()


def combine(answers: Tensor, weights: Tensor, order: ExpertOrder) -> Tensor:
    """[tokens, hidden]: the weighted sum of each token's answers [rows, hidden], first expert to last."""
    total = torch.zeros(weights.shape[0], answers.shape[1], device=answers.device)
    for slot in range(order.top_k):
        total += weights[:, slot, None] * answers[order.rows[:, slot]].float()
    return total.to(answers.dtype)
