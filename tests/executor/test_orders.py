"""Orders: what arrives is what was sent, and what does not fit together is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.executor.orders import ComputeHidden, ComputeLogits, Order, to_batch, to_order
from runtime.layers.forward import ForwardBatch

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
ARRAYS = tuple(field.name for field in fields(ForwardBatch))


def batch_of(num_tokens: int, num_rows: int, num_pages: int, num_wanted: int) -> ForwardBatch:
    """All numbers are different."""
    shapes = {
        "token_ids": (num_tokens,),
        "positions": (num_tokens,),
        "query_starts": (num_rows + 1,),
        "kv_lengths": (num_rows,),
        "page_tables": (num_rows, num_pages),
        "write_slots": (num_tokens,),
        "logit_rows": (num_wanted,),
    }
    arrays: dict[str, Any] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        dtype = torch.int64 if name in ("token_ids", "logit_rows") else torch.int32
        size = int(torch.tensor(shape).prod())
        arrays[name] = (torch.arange(size, dtype=dtype) + 1000 * index).view(shape)
    return ForwardBatch(**arrays)


def over_a_link(order: Order) -> Order:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=Order)


@given(SIZES)
def test_a_batch_arrives(sizes: tuple[int, int, int, int]) -> None:
    batch = batch_of(*sizes)
    order = over_a_link(to_order(batch))
    assert isinstance(order, ComputeHidden)
    arrived = to_batch(order)
    for name in ARRAYS:
        sent, received = getattr(batch, name), getattr(arrived, name)
        assert sent.dtype == received.dtype
        assert torch.equal(sent, received)


def test_a_view_arrives_as_it_looks() -> None:
    batch = batch_of(4, 3, 6, 2)
    narrow = ForwardBatch(**{name: getattr(batch, name) for name in ARRAYS} | {"page_tables": batch.page_tables[:, 1:3]})
    assert torch.equal(to_batch(to_order(narrow)).page_tables, batch.page_tables[:, 1:3])


def test_what_arrives_can_be_written_to() -> None:
    received = to_batch(to_order(batch_of(2, 1, 1, 1)))
    received.token_ids.fill_(7)
    assert received.token_ids.tolist() == [7, 7]


def test_logits_arrive() -> None:
    assert over_a_link(ComputeLogits(num_rows=3)) == ComputeLogits(num_rows=3)


@pytest.mark.parametrize("name", ARRAYS)
def test_bytes_of_another_length_are_refused(name: str) -> None:
    order = to_order(batch_of(4, 3, 2, 2))
    for data in (getattr(order, name)[:-1], getattr(order, name) + b"\0" * 8):
        with pytest.raises(ValueError, match=f"an order's {name}"):
            to_batch(msgspec.structs.replace(order, **{name: data}))


@pytest.mark.parametrize("name", ["num_tokens", "num_rows", "num_pages", "num_wanted"])
@pytest.mark.parametrize("size", [-1, 7, 2**62])
def test_sizes_that_are_not_those_of_the_bytes_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="an order's"):
        to_batch(msgspec.structs.replace(to_order(batch_of(4, 3, 2, 2)), **{name: size}))


def test_two_sizes_below_0_do_not_make_one_above() -> None:
    order = msgspec.structs.replace(to_order(batch_of(0, 2, 2, 0)), num_rows=-2, num_pages=-2, kv_lengths=b"", query_starts=b"")
    with pytest.raises(ValueError, match="an order's"):
        to_batch(order)
