"""A random order, drawn when a request enters the queue; reproducible, since the generator is seeded by who builds it."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from runtime.scheduling.policy import least_output
from runtime.scheduling.request import Request


class Policy:
    needs_prefix = False
    max_ranked: int | None = None

    def __init__(self, random: Random) -> None:
        self._random = random

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        return (self._random.random(), request.arrival)

    def victim(self, running: Iterable[Request]) -> Request:
        return least_output(running)
