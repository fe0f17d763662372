"""What a simulated client asks for.

Prompts are token ids where the text does not matter, so that every engine gets equal lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIRST_PLAIN_ID = 1000
"""Below this live special tokens and single bytes in the vocabularies that are measured here."""


@dataclass(frozen=True)
class Call:
    """One request. Without `fields` it generates exactly `num_output_tokens`, greedily."""

    prompt: list[int] | str
    num_output_tokens: int
    follows: bool = False
    """The prompt is appended to the text of the call before it in the session, prompt and answer."""
    may_end_early: bool = False
    """Whether fewer tokens are an answer too."""
    leaves_after: int | None = None
    """The client goes away after so many events."""
    fields: dict[str, Any] = field(default_factory=dict)
    """More of the request's body."""


Session = tuple[Call, ...]
"""What one client asks, one call after the other."""


def singles(calls: Iterable[Call]) -> list[Session]:
    """A client of its own for each call."""
    return [(call,) for call in calls]


def random_ids(rng: np.random.Generator, num_rows: int, num_tokens: int, vocab_size: int) -> list[list[int]]:
    """`num_rows` prompts of plain token ids."""
    rows: list[list[int]] = rng.integers(FIRST_PLAIN_ID, vocab_size, size=(num_rows, num_tokens)).tolist()
    return rows
