"""The choice of the next token, greedy and drawn, with filters and penalties; logits are float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kernels.sampling import SlotRules, greedy, reference, sample
from kernels.sampling.rules import ALL_STEPS
from perf.kernel_checks import Draw, Pair

RULES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 20},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 0.8, "frequency_penalty": 0.5, "presence_penalty": 0.3, "num_prompt_tokens": 4},
    {"biases": {3: 20.0}},
    {"min_length": 100, "masked_ids": (1, 2, 5)},
)
NUM_TOKENS = 9

DEVICES = ("cpu", "cuda")


def pairs(draw: Draw) -> Iterator[Pair]:
    for vocab_size in (63, 1000, 50_000, 151_936):
        logits = draw.normal(len(RULES), vocab_size, dtype=torch.float32) * 3
        yield Pair(f"{vocab_size} greedy", greedy(logits), reference.greedy(logits))
        on_cpu = SlotRules.allocate(len(RULES), "cpu")
        for slot, rules in enumerate(RULES):
            on_cpu.set(slot, seed=slot + 1, **rules)
        history = draw.below(vocab_size, len(RULES), NUM_TOKENS + 3)
        slots, positions = draw.order(len(RULES)), draw.ints(*[NUM_TOKENS] * len(RULES))
        inputs = (logits, slots, positions, _on(on_cpu, draw.device), history)
        expected = reference.sample(*inputs, ALL_STEPS, None, None)
        yield Pair(f"{vocab_size} sampled", sample(*inputs), expected)


def _on(rules: SlotRules, device: torch.device) -> SlotRules:
    """A copy there."""
    copied = SlotRules.allocate(len(RULES), device)
    copied.scalars.copy_(rules.scalars)
    copied.masked_ids.copy_(rules.masked_ids)
    copied.bias_ids.copy_(rules.bias_ids)
    copied.bias_values.copy_(rules.bias_values)
    return copied
