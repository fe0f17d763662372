"""Rank 0's model when several ranks share it: orders the others to compute what it computes itself.

Receives what the executor asks of a model; sends an `Order` just before each computation, which every rank then runs over its
own part of the weights and of the cache, meeting the others in collectives. Invariant: once an order is sent, rank 0 computes
it to the end or the group is lost: the others wait in a collective, and nothing but its failure gets them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from runtime.errors import RankLost
from runtime.executor.orders import ComputeLogits, Order, to_order
from runtime.executor.step_runner import STEP_ERRORS
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.layers.rank_group import RankGroup
from runtime.models.decoder import Decoder

Send = Callable[[Order], None]


class LedModel:
    """Implements the executor's `Model`. `send` brings an order to every other rank; it is called on the executor's worker."""

    def __init__(self, decoder: Decoder, group: RankGroup, send: Send) -> None:
        self._decoder = decoder
        self._group = group
        self._send = send

    def hidden_states(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        """See `Decoder.hidden_states`. The other ranks use the same pages, also if `kv` is not the one of the steps."""
        with self._leading(to_order(batch)):
            return self._decoder.hidden_states(batch, kv)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Decoder.logits`."""
        return self._with_head(hidden, self._decoder.logits)

    def argmax(self, hidden: Tensor) -> Tensor:
        """See `Decoder.argmax`."""
        return self._with_head(hidden, self._decoder.argmax)

    def _with_head(self, hidden: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        num_rows = hidden.shape[0]
        if num_rows == 0:
            return compute(hidden)
        with self._leading(ComputeLogits(num_rows=num_rows)):
            hidden = hidden.contiguous()
            self._group.broadcast(hidden)
            return compute(hidden)

    @contextmanager
    def _leading(self, order: Order) -> Iterator[None]:
        """Raises `RankLost` if rank 0 can not do what it has ordered."""
        self._send(order)
        try:
            yield
        except STEP_ERRORS as error:
            raise RankLost(f"rank 0 could not compute its part of a step: {type(error).__name__}: {error}") from error
