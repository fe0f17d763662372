"""Greedy choice: the index of the largest logit of each row."""

from __future__ import annotations

import torch
from torch import Tensor


def argmax(logits: Tensor) -> Tensor:
    """logits: [rows, vocabulary]. Returns [rows] int64, of equal logits the first; -1 for a row with NaN, +inf or no number.

    Where the logits come from a product of our own it finds the largest while it runs (see `float_linear_argmax`).
    """
    peaks = logits.amax(dim=-1, keepdim=True)  # NaN if there is one
    ids = (logits == peaks).to(torch.uint8).argmax(dim=-1)
    return torch.where(peaks.squeeze(-1).isfinite(), ids, -1)
