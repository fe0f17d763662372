"""Log probabilities in torch: the definition that the Triton kernels are checked against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_TOP = 128
LOWEST = torch.finfo(torch.float32).min
"""Stands for the logarithm of 0, which JSON can not write."""


class TopLogprobs(NamedTuple):
    """Of rows whose normalizer is not finite, the rest means nothing."""

    normalizers: Tensor
    """[rows] float32, the logarithm of the sum of the exponentials; NaN if a row has a NaN or +inf, or nothing finite."""
    values: Tensor
    """[rows, ids] float32, the log probabilities of the given tokens."""
    top_ids: Tensor
    """[rows, num_top] int32, the likeliest first; of equally likely ones the smaller id."""
    top_values: Tensor
    """[rows, num_top] float32"""


def top_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> TopLogprobs:
    """See `kernels.top_logprobs.top_logprobs`."""
    normalizers = log_normalizers(logits)
    values = (logits.gather(1, token_ids.long().clamp(min=0)) - normalizers[:, None]).clamp(min=LOWEST)
    ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :num_top]
    top_values = (logits.gather(1, ids) - normalizers[:, None]).clamp(min=LOWEST)
    return TopLogprobs(normalizers, values.masked_fill(token_ids < 0, LOWEST), ids.int(), top_values)


def log_normalizers(logits: Tensor) -> Tensor:
    """[rows] float32: summed in float64, as the exponentials of what each logit is below the largest."""
    peaks = logits.amax(dim=1)  # [rows]
    sums = (logits - peaks[:, None]).exp().double().sum(dim=1)
    return (peaks.double() + sums.log()).float()
