"""Greedy choice: the index of the largest logit of each row."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.argmax import reference

SLOTS = struct.Struct("5q")  # struct argmax


def argmax(logits: Tensor) -> Tensor:
    """logits: [rows, vocabulary] float32, contiguous last dimension. Returns [rows] int64; of equal logits, the first wins.

    NaNs give some valid index.
    """
    run = native.function("argmax")
    if run is None or not logits.is_cpu or logits.dtype is not torch.float32:
        return reference.argmax(logits)
    num_rows, num_columns = logits.shape
    out = logits.new_empty((num_rows,), dtype=torch.int64)
    run(SLOTS.pack(out.data_ptr(), logits.data_ptr(), num_rows, num_columns, logits.stride(0)))
    return out
