"""Some rows of a matrix, as a matrix of their own."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from kernels import native
from kernels.gather_rows import reference

SLOTS = struct.Struct("6q")  # struct gather_rows


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """`x[rows]`: a new [rows, width] of x's dtype.

    x: [tokens, width] of any dtype, last dimension contiguous. rows: [rows] int64, contiguous, each inside x.
    """
    if x.is_cuda:
        return x.index_select(0, rows)
    run = native.function("gather_rows")
    if run is None or not x.is_cpu or rows.dtype is not torch.int64:
        return reference.gather_rows(x, rows)
    num_rows, width, item_bytes = rows.shape[0], x.shape[1], x.element_size()
    out = x.new_empty((num_rows, width))
    run(SLOTS.pack(out.data_ptr(), x.data_ptr(), rows.data_ptr(), num_rows, width * item_bytes, x.stride(0) * item_bytes))
    return out
