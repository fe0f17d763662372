"""The follower: the one actor of a rank that does not lead. It passes rank 0's orders on to this rank's compute thread.

It knows nothing of requests, tokens or time. Invariant: orders are computed in the order in which they came.
"""

from __future__ import annotations

from typing import Protocol

from runtime.actors.actor import Actor, receives
from runtime.executor.orders import ComputeHidden, ComputeLogits, Order


class Computer(Protocol):
    """The rank's share of the model, on a thread of its own."""

    def submit(self, order: Order) -> None:
        """Queue `order`; returns at once."""
        ...


class Follower(Actor):
    def __init__(self, computer: Computer) -> None:
        self._computer = computer

    @receives(ComputeHidden, ComputeLogits)
    async def compute(self, order: Order) -> None:
        self._computer.submit(order)
