"""Recorded graphs for steps in which every sequence computes one token: the launch of a whole forward pass in one call.

A graph has a fixed number of rows, so a step takes the next larger one and fills it up with rows of the scratch slot. Larger
steps, and those with prompts, are launched kernel by kernel. All graphs read their rows from one place and gather their inputs
from the batch table themselves; they share one memory pool, so the largest is recorded first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from runtime.executor.device_port import DevicePort, Graph
from runtime.executor.device_table import DeviceTable
from runtime.layers.forward import ForwardBatch, KVCache, Queries

SMALL_BUCKETS = (1, 2, 4, 8)
BUCKET_STRIDE = 8
MAX_BUCKET = 256


class GraphedModel(Protocol):
    """What of a model is recorded."""

    def hidden_states(self, batch: ForwardBatch, kv: KVCache, wanted: Queries | None = None) -> Tensor: ...


def make_buckets(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 16, 24, … and `max_rows` itself; none for 0."""
    sizes = (*SMALL_BUCKETS, *range(2 * BUCKET_STRIDE, max_rows, BUCKET_STRIDE))
    return (*(size for size in sizes if size < max_rows), max_rows) if max_rows > 0 else ()


class DecodeGraphs:
    """`buckets`: the sizes to record, ascending."""

    def __init__(self, port: DevicePort, table: DeviceTable, buckets: tuple[int, ...]) -> None:
        self._port = port
        self._table = table
        self._buckets = buckets
        self._graphs: dict[int, Graph] = {}
        self._rows = torch.zeros((2, max(buckets, default=0)), dtype=torch.int64, device=port.device)
        """Slots and positions, read by every graph."""

    def clear(self) -> None:
        """Forget the graphs: the memory that they know is about to go."""
        self._graphs.clear()

    def capture(self, model: GraphedModel, kv: KVCache, *, show_progress: bool = False) -> None:
        """Record all graphs. Only the scratch page is written to. Raises RuntimeError when memory is short."""
        self._rows[0] = self._table.scratch_slot
        self._rows[1] = 0
        graphs: dict[int, Graph] = {}
        for bucket in tqdm(
            self._buckets[::-1], "Capturing CUDA graphs", disable=None if show_progress and self._buckets else True
        ):
            graphs[bucket] = self._port.capture(self._work(bucket, model, kv))
        self._graphs = graphs

    def bucket_for(self, num_rows: int) -> int | None:
        """The size of the graph that takes so many rows, if there is one."""
        if not self._graphs or not 0 < num_rows <= self._buckets[-1]:
            return None
        return self._buckets[bisect_left(self._buckets, num_rows)]

    def replay(self, rows: Tensor) -> Tensor:
        """[bucket, hidden] outputs of `rows` [2, bucket] int64, slots and positions; overwritten by the next replay."""
        bucket = rows.shape[1]
        self._rows[:, :bucket].copy_(rows)
        graph = self._graphs[bucket]
        graph.replay()
        return graph.output

    def _work(self, bucket: int, model: GraphedModel, kv: KVCache) -> Callable[[], Tensor]:
        return partial(_decode, self._rows[:, :bucket], self._table, model, kv)


def _decode(rows: Tensor, table: DeviceTable, model: GraphedModel, kv: KVCache) -> Tensor:
    batch = table.decode_batch(rows[0], rows[1])
    return model.hidden_states(batch, kv, batch.queries)
