"""All chance of a simulated run: every decision is drawn here, recorded, and can be given again.

A decision is a number in [0, `num_options`) and a label that says what was decided. Option 0 is always the plain one (no
delay, no fault), so that a smaller record is a simpler run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

FINE = 1_000_000


Decision = tuple[str, int, int]
"""(label, number of options, choice)."""


class Choices:
    """Draws from `seed` alone. `note` is told each decision."""

    def __init__(self, seed: int, note: Callable[[Decision], None] = lambda decision: None) -> None:
        self.seed = seed
        self.note = note
        self.divergence: str | None = None
        """Where a replay left the record: the code has changed since."""
        self._random = random.Random(seed).random

    @classmethod
    def replay(cls, seed: int, decisions: Sequence[Decision]) -> Choices:
        """The same decisions again. When asked for others, `divergence` says so and the plain option is taken from there on."""
        return _Replay(seed, decisions)

    def below(self, num_options: int, label: str) -> int:
        """A number in [0, num_options)."""
        choice = self._draw(num_options, label)
        self.note((label, num_options, choice))
        return choice

    def chance(self, probability: float, label: str) -> bool:
        return self.below(FINE, label) >= FINE - round(probability * FINE)

    def between(self, low: int, high: int, label: str) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1, label)

    def pick(self, options: Sequence[_T], label: str) -> _T:
        return options[self.below(len(options), label)]

    def seconds(self, high_s: float, label: str) -> float:
        """A duration in [0, high_s), in microseconds' steps."""
        return self.below(max(1, round(high_s * 1e6)), label) * 1e-6

    def shuffled(self, items: Sequence[_T], label: str) -> list[_T]:
        left = list(items)
        return [left.pop(self.below(len(left), label) if len(left) > 1 else 0) for _ in items]

    def _draw(self, num_options: int, label: str) -> int:
        return int(self._random() * num_options)


class _Replay(Choices):
    """Decisions from a record."""

    def __init__(self, seed: int, decisions: Sequence[Decision]) -> None:
        super().__init__(seed)
        self._left = iter(decisions)

    def _draw(self, num_options: int, label: str) -> int:
        recorded_label, recorded_num_options, choice = next(self._left, ("the end of the record", 0, 0))
        if self.divergence is None and (recorded_label, recorded_num_options) != (label, num_options):
            self.divergence = f"{label} of {num_options} was asked, the record has {recorded_label} of {recorded_num_options}"
        return 0 if self.divergence is not None else choice
