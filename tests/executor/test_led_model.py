"""Rank 0's model: every computation is ordered first, and once ordered it is done or the ranks are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.errors import RankLost
from runtime.executor.led_model import LedModel
from runtime.executor.orders import ComputeHidden, ComputeLogits, Order, to_batch
from runtime.layers.forward import ForwardBatch, KVCache
from tests.executor.test_orders import batch_of

KV = KVCache(keys=[], values=[])
HIDDEN = torch.arange(12.0).view(3, 4)


class Scene:
    """A decoder, its ranks and a link that write down in which order they are used."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.log: list[str] = []
        self.orders: list[Order] = []
        self.broadcasts: list[Tensor] = []
        self.failure: Exception | None = None
        self.model = LedModel(self, self, self.send)  # type: ignore[arg-type]

    def send(self, order: Order) -> None:
        self.log.append("send")
        self.orders.append(order)

    def broadcast(self, x: Tensor) -> None:
        self.log.append("broadcast")
        assert x.is_contiguous()
        self.broadcasts.append(x)

    def hidden_states(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        return self._compute("hidden_states", HIDDEN)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._compute("logits", hidden * 2)

    def argmax(self, hidden: Tensor) -> Tensor:
        return self._compute("argmax", hidden.argmax(dim=-1))

    def _compute(self, name: str, result: Tensor) -> Tensor:
        self.log.append(name)
        if self.failure is not None:
            raise self.failure
        return result


def test_a_batch_is_ordered_before_it_is_computed() -> None:
    scene, batch = Scene(), batch_of(3, 2, 2, 3)
    assert torch.equal(scene.model.hidden_states(batch, KV), HIDDEN)
    assert scene.log == ["send", "hidden_states"]
    (order,) = scene.orders
    assert isinstance(order, ComputeHidden)
    assert torch.equal(to_batch(order).page_tables, batch.page_tables)


@pytest.mark.parametrize("name", ["logits", "argmax"])
def test_the_heads_input_goes_to_all_ranks(name: str) -> None:
    scene = Scene()
    compute: Callable[[Tensor], Tensor] = {"logits": scene.model.logits, "argmax": scene.model.argmax}[name]
    rows = HIDDEN[:, ::2]
    compute(rows)
    assert scene.log == ["send", "broadcast", name]
    assert scene.orders == [ComputeLogits(num_rows=3)]
    assert torch.equal(scene.broadcasts[0], rows)


def test_no_rows_are_no_order() -> None:
    scene = Scene()
    assert scene.model.logits(HIDDEN[:0]).shape == (0, 4)
    assert scene.log == ["logits"]


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), MemoryError(), ValueError("bad")], ids=repr)
def test_a_step_that_fails_after_its_order_loses_the_ranks(error: Exception) -> None:
    scene = Scene()
    scene.failure = error
    calls: Sequence[Callable[[], Any]] = (
        lambda: scene.model.hidden_states(batch_of(3, 2, 2, 3), KV),
        lambda: scene.model.logits(HIDDEN),
    )
    for call in calls:
        with pytest.raises(RankLost, match=f"rank 0 could not compute its part of a step: {type(error).__name__}"):
            call()


def test_what_can_not_be_sent_is_not_computed() -> None:
    def refuse(order: Order) -> None:
        raise RankLost("rank 1 is gone")

    scene = Scene()
    model = LedModel(scene, scene, refuse)  # type: ignore[arg-type]
    with pytest.raises(RankLost, match="rank 1 is gone"):
        model.logits(HIDDEN)
    assert scene.log == []
