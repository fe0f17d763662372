"""How much the running requests will still need: SGLang's new-token ratio.

A request is expected to generate `ratio` of what it may. The ratio starts at 0.7 × conservativeness, falls to 0.14 of that over
600 steps without trouble, and is raised when a retraction shows that it was too low.
"""

from __future__ import annotations

from collections.abc import Collection

from runtime.scheduling.request import Request

MAX_EXPECTED_TOKENS = 4096
INITIAL_RATIO = 0.7
LOWEST_SHARE = 0.14
NUM_DECAY_STEPS = 600
NUM_RETRACT_TOKENS = 20
"""Tokens per running request that should fit after a retraction before the next one."""


class NeedEstimate:
    """How many tokens requests are expected to generate from now on."""

    def __init__(self, conservativeness: float) -> None:
        self.ratio = min(INITIAL_RATIO * conservativeness, 1.0)
        self._lowest = self.ratio * LOWEST_SHARE
        self._decay = (self.ratio - self._lowest) / NUM_DECAY_STEPS

    def step(self) -> None:
        """One more step went by without trouble."""
        self.ratio = max(self.ratio - self._decay, self._lowest)

    def retracted(self, running: Collection[Request]) -> None:
        """The ratio was too low: take what the running requests turned out to generate, as SGLang does."""
        num_allowed = sum(request.max_new_tokens for request in running)
        num_generated = sum(len(request.output_ids) + NUM_RETRACT_TOKENS for request in running)
        self.ratio = max(self.ratio, min(num_generated / max(num_allowed, 1), 1.0))

    def growth_tokens(self, request: Request) -> float:
        return self.ratio * min(request.num_remaining_tokens, MAX_EXPECTED_TOKENS)
