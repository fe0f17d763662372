"""A sequence with extras, whose tokens the host follows too: for its grammar, its processor, or its log probabilities.

Its last tokens are known when the step that samples them is complete. The completer appends them then; the launcher reads them
only after it has waited for the steps before (`Pipeline.settle`), so that the two never touch it at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.executor.extras import SlotExtras
from runtime.messages import SlotOpen
from runtime.sampling.steps import SamplingRules


class Followed:
    """One opening of a slot. `generation` tells it from later ones."""

    def __init__(self, opened: SlotOpen, generation: int, extras: SlotExtras, rules: SamplingRules, max_tokens: int) -> None:
        self.slot = opened.slot
        self.generation = generation
        self.extras = extras
        self.rules = rules
        self.token_ids: npt.NDArray[np.int32] = np.zeros(max_tokens, dtype=np.int32)
        self.num_tokens = 0
        self.append(opened.token_ids)

    @property
    def is_chosen_late(self) -> bool:
        """The host has a say in the next token, so it has to know the ones before."""
        return self.extras.is_sampled_specially

    @property
    def history(self) -> npt.NDArray[np.int32]:
        """[tokens] prompt and output so far."""
        return self.token_ids[: self.num_tokens]

    def append(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Add ids; returns those that fit in the context."""
        start = self.num_tokens
        token_ids = token_ids[: len(self.token_ids) - start]
        self.token_ids[start : start + len(token_ids)] = token_ids
        self.num_tokens += len(token_ids)
        return token_ids

    def known_ids(self, start: int) -> list[int]:
        """The ids from position `start` on."""
        ids: list[int] = self.token_ids[start : self.num_tokens].tolist()
        return ids


class Forced(NamedTuple):
    """Ids that a grammar forced, on their way to the device's table."""

    slot: int
    generation: int
    start: int
    token_ids: Sequence[int]


class Lost(NamedTuple):
    """A sequence that missed something when its step was completed."""

    slot: int
    generation: int
