"""Longest prefix match: what is cached most goes first, before it is evicted; then in order of arrival.

Beyond 128 waiting requests the order is that of arrival, as in SGLang: matching a long queue costs more than it saves. In a
shorter queue a request without a cached prefix can be overtaken for as long as others with one keep coming.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from runtime.scheduling.policy import least_output
from runtime.scheduling.request import Request


class Policy:
    needs_prefix = True
    max_ranked: int | None = 128

    def __init__(self, random: Random) -> None:
        pass

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        return (-request.num_hit_tokens, request.arrival)

    def victim(self, running: Iterable[Request]) -> Request:
        return least_output(running)
