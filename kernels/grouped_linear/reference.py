"""The grouped product in torch, expert by expert: the definition that the other implementations are checked against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from kernels.expert_routing import ExpertOrder


def grouped_linear(x: Tensor, weight: Tensor, order: ExpertOrder, *, from_tokens: bool) -> Tensor:
    """[rows, outputs]: `x @ weight[expert].T`, summed in float32 and rounded once to x's dtype."""
    rows = x[order.pairs // order.top_k] if from_tokens else x  # [rows, inputs]
    spans = pairwise(order.starts.tolist())
    products = [rows[start:end].float() @ own.float().T for (start, end), own in zip(spans, weight, strict=True)]
    return torch.cat(products).to(x.dtype)
