"""One static batch through a decoder on the CPU and nothing else: no executor, no sampler, keys and values that are zero.

Every run of a row repeats the same step, so caches are as warm as they get. It shows what a change of a kernel does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from perf.static_batch import NUM_WARM_UPS, Times
from runtime.layers.forward import ForwardBatch, KVCache
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder

PAGE_SIZE = 16


class BareModel:
    """Replays the decoder's steps as the server does, or runs them kernel by kernel (`is_eager`)."""

    def __init__(self, decoder: Decoder, *, is_eager: bool) -> None:
        self._decoder = decoder
        self._model = decoder if is_eager else CapturedDecoder(decoder)

    async def decode(self, num_rows: int, context: int, num_steps: int, depth: int) -> Times:
        """See `StaticBatch.decode`; a bare model has no plans in flight."""
        return self._times(num_rows, context, 1, num_steps)

    async def prefill(self, num_rows: int, num_tokens: int, num_runs: int) -> Times:
        """See `StaticBatch.prefill`."""
        return self._times(num_rows, 0, num_tokens, num_runs)

    @torch.inference_mode()
    def _times(self, num_rows: int, context: int, num_new: int, num_runs: int) -> Times:
        batch, kv = _batch(self._decoder, num_rows, context, num_new)
        times_ms = _times_ms(lambda: self._model.forward(batch, kv), num_runs)
        return Times(times_ms, times_ms)


def _batch(model: Decoder, num_rows: int, context: int, num_new: int) -> tuple[ForwardBatch, KVCache]:
    """`num_rows` sequences with `context` tokens in the cache and `num_new` to compute; only the last one's logits count."""
    length = context + num_new
    pages_per_row = -(-length // PAGE_SIZE)
    page_tables = torch.randperm(num_rows * pages_per_row, dtype=torch.int32).view(num_rows, pages_per_row)
    positions = torch.arange(context, length, dtype=torch.int32).repeat(num_rows)
    owners = torch.arange(num_rows).repeat_interleave(num_new)
    pages = page_tables[owners, (positions // PAGE_SIZE).long()]
    batch = ForwardBatch(
        token_ids=torch.randint(model.spec.vocab_size, (num_rows * num_new,)),
        positions=positions,
        query_starts=torch.arange(0, num_rows * num_new + 1, num_new, dtype=torch.int32),
        kv_lengths=torch.full((num_rows,), length, dtype=torch.int32),
        page_tables=page_tables,
        write_slots=pages * PAGE_SIZE + positions % PAGE_SIZE,
        logit_rows=torch.arange(num_new - 1, num_rows * num_new, num_new),
    )
    return batch, model.kv_shape().allocate(num_rows * pages_per_row, PAGE_SIZE)


def _times_ms(step: Callable[[], object], num_runs: int) -> list[float]:
    for _ in range(NUM_WARM_UPS):
        step()
    times_ms = []
    for _ in range(num_runs):
        started = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - started) * 1e3)
    return times_ms
