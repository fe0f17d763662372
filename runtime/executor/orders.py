"""What rank 0 tells the other ranks to compute, as plain values that a link can carry.

An order is sent just before rank 0 computes its own share of the same thing. It holds no weights, keys or values: those are
sharded, and lie under the same page numbers on every rank. Hidden states do not travel in orders either, but by a collective.
Invariant: `to_batch(to_order(batch))` is `batch`, and bytes that are not the arrays they say they are raise `ValueError`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.layers.forward import ForwardBatch
from runtime.messages import Message


class ComputeHidden(Message, frozen=True, kw_only=True, tag="hidden"):
    """A `ForwardBatch`: its arrays as little-endian bytes, row by row."""

    num_tokens: int
    num_rows: int
    num_pages: int
    """Columns of the page tables."""
    num_wanted: int
    token_ids: bytes
    positions: bytes
    query_starts: bytes
    kv_lengths: bytes
    page_tables: bytes
    write_slots: bytes
    logit_rows: bytes


class ComputeLogits(Message, frozen=True, kw_only=True, tag="logits"):
    """The head over so many rows, [num_rows, hidden] of the model's dtype, which rank 0 then broadcasts."""

    num_rows: int


Order = ComputeHidden | ComputeLogits


def to_order(batch: ForwardBatch) -> ComputeHidden:
    """The order to compute `batch`."""
    num_rows, num_pages = batch.page_tables.shape
    return ComputeHidden(
        num_tokens=batch.token_ids.shape[0],
        num_rows=num_rows,
        num_pages=num_pages,
        num_wanted=batch.logit_rows.shape[0],
        token_ids=_bytes(batch.token_ids),
        positions=_bytes(batch.positions),
        query_starts=_bytes(batch.query_starts),
        kv_lengths=_bytes(batch.kv_lengths),
        page_tables=_bytes(batch.page_tables),
        write_slots=_bytes(batch.write_slots),
        logit_rows=_bytes(batch.logit_rows),
    )


def to_batch(order: ComputeHidden) -> ForwardBatch:
    """The batch that `order` was made of. Raises `ValueError` if a size is below 0 or the bytes do not have these sizes."""
    num_tokens, num_rows = order.num_tokens, order.num_rows
    return ForwardBatch(
        token_ids=_tensor("token_ids", order.token_ids, torch.int64, num_tokens),
        positions=_tensor("positions", order.positions, torch.int32, num_tokens),
        query_starts=_tensor("query_starts", order.query_starts, torch.int32, num_rows + 1),
        kv_lengths=_tensor("kv_lengths", order.kv_lengths, torch.int32, num_rows),
        page_tables=_tensor("page_tables", order.page_tables, torch.int32, num_rows, order.num_pages),
        write_slots=_tensor("write_slots", order.write_slots, torch.int32, num_tokens),
        logit_rows=_tensor("logit_rows", order.logit_rows, torch.int64, order.num_wanted),
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()


def _tensor(name: str, data: bytes, dtype: torch.dtype, *shape: int) -> Tensor:
    num_elements = 1
    for size in shape:
        num_elements *= size
    if min(shape) < 0 or len(data) != num_elements * dtype.itemsize:
        raise ValueError(f"an order's {name} of {len(data)} bytes is not {list(shape)} of {dtype}")
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)  # a copy, which torch may write to
