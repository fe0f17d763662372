"""What a scheduling policy is. It only orders: it can not allocate, so it can not leak.

A file in `policies/` is a policy; it has a class `Policy` that is built with a seeded generator.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Protocol

from runtime import extensions
from runtime.scheduling.request import Request

PACKAGE = "runtime.scheduling.policies"


class Policy(Protocol):
    needs_prefix: bool
    """Whether `num_hit_tokens` and `tree_order` of waiting requests are kept up to date for `rank`."""

    max_ranked: int | None
    """With more waiting requests than this the queue is in order of arrival, since ranking would cost too much."""

    def __init__(self, random: Random) -> None: ...

    def rank(self, request: Request, now: float) -> tuple[float, ...]:
        """The smallest is admitted first. Asked when a request enters the queue and when its prefix match changes."""
        ...

    def victim(self, running: Iterable[Request]) -> Request:
        """Which of `running` (never empty) gives up its pages.

        Every lease has a page of its own, so each choice frees something. For the sake of progress the choice must
        follow an order in which some request is the last until it ends.
        """
        ...


def least_output(running: Iterable[Request]) -> Request:
    """The request that loses least: fewest generated tokens, then the one that came last."""
    return min(running, key=lambda request: (len(request.output_ids), -request.arrival))


def load_policy(name: str, random: Random) -> Policy:
    """The policy of that name. Raises `ConfigError` that lists the names there are."""
    policy: Policy = extensions.load(PACKAGE, name).Policy(random)
    return policy
