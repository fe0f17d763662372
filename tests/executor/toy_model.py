"""A model whose every answer can be known beforehand: its logits point at `next_token` of what it finds in the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from kernels.argmax import argmax
from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import ForwardBatch, KVCache, Queries
from runtime.messages import SlotOpen, StepPlan, StepRow
from runtime.params import SamplingParams
from tests.fakes.executor import next_token

LIMITS = ExecutorLimits(num_pages=12, page_size=4, num_slots=3, context_length=32, vocab_size=500)
PROMPT = (11, 12, 13, 14, 15, 16)
GREEDY = SamplingParams(temperature=0.0)


class ToyModel:
    """Keys are token ids, values are positions. `hooks` are called one per forward pass, before it."""

    def __init__(self, limits: ExecutorLimits = LIMITS) -> None:
        self.limits = limits
        self.hooks: list[Callable[[], object]] = []
        self.num_calls = 0
        self.threads: set[threading.Thread] = set()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()

    def argmax(self, hidden: torch.Tensor) -> torch.Tensor:
        return argmax(self.logits(hidden))

    def hidden_states(self, batch: ForwardBatch, kv: KVCache, wanted: Queries | None = None) -> torch.Tensor:
        """The logits themselves."""
        self.num_calls += 1
        self.threads.add(threading.current_thread())
        if self.hooks:
            self.hooks.pop(0)()
        assert not len(batch.token_ids) or batch.token_ids.min() >= 0, "every token has an embedding"
        keys, values = (tensors[0].view(-1) for tensors in (kv.keys, kv.values))  # [pages * page_size]
        keys[batch.write_slots.long()] = batch.token_ids.float()
        values[batch.write_slots.long()] = batch.positions.float()
        logits = torch.zeros(len(batch.logit_rows), self.limits.vocab_size)
        rows_of_tokens = torch.repeat_interleave(batch.query_starts.diff().long())
        for i, token in enumerate(batch.logit_rows.tolist()):
            row = int(rows_of_tokens[token])
            places = torch.arange(int(batch.kv_lengths[row]))
            pages = batch.page_tables[row, places // self.limits.page_size].long()
            slots = pages * self.limits.page_size + places % self.limits.page_size
            assert values[slots].tolist() == places.tolist(), "the cache holds each position where the page table says"
            logits[i, next_token(keys[slots].long().tolist(), self.limits.vocab_size)] = 1.0
        return logits


def make_kv(limits: ExecutorLimits = LIMITS, *, num_scratch_pages: int = 0) -> KVCache:
    shape = (limits.num_pages + num_scratch_pages, 1, limits.page_size, 1)
    return KVCache(keys=[torch.full(shape, -1.0)], values=[torch.full(shape, -1.0)])


def opened(slot: int, pages: tuple[int, ...], token_ids: tuple[int, ...] = PROMPT, params: SamplingParams = GREEDY) -> SlotOpen:
    return SlotOpen(slot=slot, token_ids=token_ids, num_prompt_tokens=len(token_ids), pages=pages, params=params)


def row(slot: int, start: int, num_tokens: int, new_pages: tuple[int, ...] = (), *, sample: bool = True) -> StepRow:
    return StepRow(slot=slot, start=start, num_tokens=num_tokens, new_pages=new_pages, sample=sample)


def first_plan(step_id: int = 0, slot: int = 0, pages: tuple[int, ...] = (3, 1)) -> StepPlan:
    """Opens a slot with `PROMPT` and computes all of it."""
    return StepPlan(step_id=step_id, opens=(opened(slot, pages),), rows=(row(slot, 0, len(PROMPT)),))
