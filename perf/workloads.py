"""What is asked in a benchmark: prompts as token ids, so that every engine gets exactly the same lengths.

All workloads are drawn from a seed. Use a new seed for every run: engines that have seen a prompt answer it from their cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_PLAIN_ID = 1000
"""Below this live special tokens and single bytes in the vocabularies that are measured here."""


@dataclass(frozen=True)
class Call:
    """One request: `prompt` token ids and how many tokens to generate."""

    prompt: list[int]
    num_output_tokens: int


def fixed(num_calls: int, *, prompt_tokens: int, output_tokens: int, vocab_size: int, seed: int) -> list[Call]:
    """Prompts of equal length that share nothing."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(FIRST_PLAIN_ID, vocab_size, size=(num_calls, prompt_tokens))
    return [Call(row.tolist(), output_tokens) for row in ids]


def shared_prefix(
    num_calls: int,
    *,
    num_groups: int,
    prefix_tokens: int,
    question_tokens: int,
    output_tokens: int,
    vocab_size: int,
    seed: int,
) -> list[Call]:
    """`num_groups` long prefixes, each followed by different questions, in round-robin order."""
    rng = np.random.default_rng(seed)
    prefixes = rng.integers(FIRST_PLAIN_ID, vocab_size, size=(num_groups, prefix_tokens))
    questions = rng.integers(FIRST_PLAIN_ID, vocab_size, size=(num_calls, question_tokens))
    return [
        Call([*prefixes[number % num_groups].tolist(), *question.tolist()], output_tokens)
        for number, question in enumerate(questions)
    ]
