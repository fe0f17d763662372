"""The best of several sequences for one prompt: those with the highest mean log probability of their tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

from runtime.messages import TextRow


def best_indices(results: Sequence[Sequence[TextRow]], n: int, best_of: int) -> list[int]:
    """Of each `best_of` successive results the `n` best, the best first; of equals the earlier ones."""
    kept: list[int] = []
    for start in range(0, len(results), best_of):
        candidates = range(start, start + best_of)
        kept += sorted(candidates, key=lambda index: -_mean_logprob(results[index]))[:n]
    return kept


def _mean_logprob(rows: Sequence[TextRow]) -> float:
    """Minus infinity for a sequence of no tokens."""
    logprobs = [row.logprobs for row in rows if row.logprobs is not None]
    values = [value for value in chain.from_iterable(part.values for part in logprobs) if value is not None]
    return sum(values) / len(values) if values else -math.inf
