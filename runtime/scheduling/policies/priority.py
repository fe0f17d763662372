"""Higher priority first, then in order of arrival; the lowest priority gives up its pages first.

Strict by choice: as long as higher priorities keep coming, a lower one waits, up to the deadline of its request. That is what
the number promises; who wants fairness gives equal priorities.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from runtime.scheduling.request import Request


class Policy:
    needs_prefix = False
    max_ranked: int | None = None

    def __init__(self, random: Random) -> None:
        pass

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        return (-request.priority, request.arrival)

    def victim(self, running: Iterable[Request]) -> Request:
        return min(running, key=lambda request: (request.priority, len(request.output_ids), -request.arrival))
