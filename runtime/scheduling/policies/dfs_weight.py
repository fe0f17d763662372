"""Depth-first through the prefix tree, heaviest subtree first, so that a shared prefix is used up before it is evicted.

The order is the cache's (`PrefixMatch.tree_order`). From the paper of SGLang: RadixAttention, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from runtime.scheduling.policy import least_output
from runtime.scheduling.request import Request


class Policy:
    needs_prefix = True
    max_ranked: int | None = None

    def __init__(self, random: Random) -> None:
        pass

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        return (request.tree_order, request.arrival)

    def victim(self, running: Iterable[Request]) -> Request:
        return least_output(running)
