"""Greedy choice in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor


def argmax(logits: Tensor) -> Tensor:
    """The first index of each row's largest logit."""
    peaks = logits.amax(dim=-1, keepdim=True)
    return (logits == peaks).to(torch.uint8).argmax(dim=-1)
