"""A decoder whose step is one C call: its kernels, captured once as a graph and replayed for batches of any shape.

Receives what a decoder receives, and gives its answers bit for bit; Python's share of a step, some 240 calls, is left out.
Owns the graph and its buffers. Batches that are larger than the graph, and models whose products are not our kernels', are
computed by the decoder itself.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.graph import CaptureError, KernelGraph, Sample, capture
from runtime.layers.forward import ForwardBatch, KVCache, KVShape, Queries
from runtime.models.decoder import Decoder

log = logging.getLogger(__name__)

MAX_TOKENS = 2048
MAX_WANTED = 512
"""The buffers are made for so many; memory that no step has used yet costs nothing."""


class CapturedDecoder:
    """Implements the executor's `Model`. Not thread-safe: one step at a time."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._graph: KernelGraph | None = None
        self._page_size = 0
        self._can_capture = decoder.can_be_captured

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed; known after the first one."""
        return self._graph is not None

    def kv_shape(self) -> KVShape:
        """See `Decoder.kv_shape`."""
        return self._decoder.kv_shape()

    def forward(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        """See `Decoder.forward`."""
        return self.logits(self.hidden_states(batch, kv))

    def hidden_states(self, batch: ForwardBatch, kv: KVCache) -> Tensor:
        """See `Decoder.hidden_states`; overwritten by the next call."""
        wanted, num_wanted = batch.wanted_queries(), batch.logit_rows.shape[0]
        graph = self._graph_for(kv.keys[0].shape[2])
        if graph is None or batch.token_ids.shape[0] > MAX_TOKENS or num_wanted > MAX_WANTED:
            return self._decoder.hidden_states(batch, kv, wanted)
        graph.replay(_parameters(batch, wanted, kv))
        return graph.output[:num_wanted]

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Decoder.logits`."""
        return self._decoder.logits(hidden)

    def argmax(self, hidden: Tensor) -> Tensor:
        """See `Decoder.argmax`."""
        return self._decoder.argmax(hidden)

    def _graph_for(self, page_size: int) -> KernelGraph | None:
        if self._can_capture and page_size != self._page_size:
            try:
                self._graph = capture(_sample(self._decoder, page_size, LARGEST), _sample(self._decoder, page_size, OTHER))
                self._page_size = page_size
            except CaptureError as error:
                log.info("Steps are run kernel by kernel: %s", error)
                self._can_capture = False
        return self._graph


class Sizes(NamedTuple):
    """What the shapes of a step's inputs follow."""

    num_tokens: int
    num_wanted: int
    num_rows: int
    num_pages: int
    num_wanted_rows: int
    num_wanted_pages: int


LARGEST = Sizes(MAX_TOKENS, MAX_WANTED, num_rows=7, num_pages=11, num_wanted_rows=17, num_wanted_pages=13)
OTHER = Sizes(num_tokens=5, num_wanted=4, num_rows=3, num_pages=2, num_wanted_rows=5, num_wanted_pages=3)
"""The two that the graph is captured with: no two sizes have the same ratio. Only the first two size its buffers."""


def _sample(decoder: Decoder, page_size: int, sizes: Sizes) -> Sample:
    """A step over inputs that nobody reads."""
    kv = decoder.kv_shape().allocate(1, page_size)
    batch = ForwardBatch(
        token_ids=torch.empty(sizes.num_tokens, dtype=torch.int64),
        positions=torch.empty(sizes.num_tokens, dtype=torch.int32),
        query_starts=torch.empty(sizes.num_rows + 1, dtype=torch.int32),
        kv_lengths=torch.empty(sizes.num_rows, dtype=torch.int32),
        page_tables=torch.empty(sizes.num_rows, sizes.num_pages, dtype=torch.int32),
        write_slots=torch.empty(sizes.num_tokens, dtype=torch.int32),
        logit_rows=torch.empty(sizes.num_wanted, dtype=torch.int64),
    )
    wanted = Queries(
        starts=torch.empty(sizes.num_wanted_rows + 1, dtype=torch.int32),
        kv_lengths=torch.empty(sizes.num_wanted_rows, dtype=torch.int32),
        page_tables=torch.empty(sizes.num_wanted_rows, sizes.num_wanted_pages, dtype=torch.int32),
    )
    return Sample(lambda: decoder.hidden_states(batch, kv, wanted), _parameters(batch, wanted, kv))


def _parameters(batch: ForwardBatch, wanted: Queries, kv: KVCache) -> tuple[int, ...]:
    """Everything about a step that its kernels are told: sizes, and where inputs and pages lie."""
    sizes = Sizes(
        num_tokens=batch.token_ids.shape[0],
        num_wanted=batch.logit_rows.shape[0],
        num_rows=batch.kv_lengths.shape[0],
        num_pages=batch.page_tables.stride(0),
        num_wanted_rows=wanted.kv_lengths.shape[0],
        num_wanted_pages=wanted.page_tables.stride(0),
    )
    inputs = (
        batch.token_ids,
        batch.positions,
        batch.query_starts,
        batch.kv_lengths,
        batch.page_tables,
        batch.write_slots,
        batch.logit_rows,
        wanted.starts,
        wanted.kv_lengths,
        wanted.page_tables,
        *kv.keys,
        *kv.values,
    )
    return (*sizes, *(tensor.data_ptr() for tensor in inputs))
