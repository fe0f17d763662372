"""First come, first served."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from runtime.scheduling.policy import least_output
from runtime.scheduling.request import Request


class Policy:
    needs_prefix = False
    max_ranked: int | None = None

    def __init__(self, random: Random) -> None:
        pass

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        return (request.arrival,)

    def victim(self, running: Iterable[Request]) -> Request:
        return least_output(running)
