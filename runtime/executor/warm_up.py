"""A rehearsal for a new executor: a few small steps over sequences that nobody asked for, in a cache of their own.

Libraries make their plans and threads at the first use of each shape; without this the first requests would wait for it.
"""

from __future__ import annotations

import msgspec

from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import KVCache
from runtime.messages import SlotOpen, StepPlan, StepRow
from runtime.params import SamplingParams

NUM_SEQUENCES = 8
NUM_PROMPT_TOKENS = 64
GREEDY = SamplingParams(temperature=0.0)


def rehearsal_limits(limits: ExecutorLimits) -> ExecutorLimits:
    """Limits of a cache that just holds the rehearsal: no page number of it is beyond those of `limits`."""
    context_length = min(NUM_PROMPT_TOKENS + 2, limits.context_length)
    num_pages_each = -(-context_length // limits.page_size)
    num_sequences = min(NUM_SEQUENCES, limits.num_slots, max(1, limits.num_pages // num_pages_each))
    return msgspec.structs.replace(
        limits, num_slots=num_sequences, context_length=context_length, num_pages=num_sequences * num_pages_each
    )


def rehearsal_cache(kv: KVCache, limits: ExecutorLimits) -> KVCache:
    """A cache shaped like `kv` with the few pages of `limits`."""
    return KVCache(
        keys=[layer.new_zeros(limits.num_pages, *layer.shape[1:]) for layer in kv.keys],
        values=[layer.new_zeros(limits.num_pages, *layer.shape[1:]) for layer in kv.values],
    )


def rehearsal_plans(limits: ExecutorLimits, params: SamplingParams = GREEDY) -> tuple[StepPlan, ...]:
    """One prompt, one decode step of it alone, and one together with several sequences."""
    num_prompt_tokens = max(1, limits.context_length - 2)
    others = range(1, limits.num_slots)
    decode = StepRow(slot=0, start=num_prompt_tokens, num_tokens=1, sample=True)
    prompt = StepRow(slot=0, start=0, num_tokens=num_prompt_tokens, sample=True)
    first_tokens = tuple(StepRow(slot=slot, start=0, num_tokens=1, sample=True) for slot in others)
    return (
        StepPlan(step_id=0, opens=(_open(0, num_prompt_tokens, limits, params),), rows=(prompt,)),
        StepPlan(step_id=1, rows=(decode,)),
        StepPlan(step_id=2, opens=tuple(_open(slot, 1, limits, params) for slot in others), rows=first_tokens),
    )


def _open(slot: int, num_tokens: int, limits: ExecutorLimits, params: SamplingParams) -> SlotOpen:
    num_pages = limits.num_pages // limits.num_slots
    return SlotOpen(
        slot=slot,
        token_ids=(0,) * num_tokens,
        num_prompt_tokens=num_tokens,
        pages=tuple(range(slot * num_pages, (slot + 1) * num_pages)),
        params=params,
    )
