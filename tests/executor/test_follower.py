"""The follower passes on what it is told, in order, and a computer that can not take it crashes it."""

from __future__ import annotations

import asyncio

import pytest

from runtime.actors.supervisor import Escalated, Group, Supervisor
from runtime.clock import SystemClock
from runtime.errors import EngineError
from runtime.executor.follower import Follower
from runtime.executor.orders import ComputeLogits, Order


class Computer:
    def __init__(self, num_accepted: int) -> None:
        self.orders: list[Order] = []
        self._num_accepted = num_accepted
        self.is_full = asyncio.Event()

    def submit(self, order: Order) -> None:
        if len(self.orders) == self._num_accepted:
            raise EngineError("the worker has ended")
        self.orders.append(order)
        if len(self.orders) == self._num_accepted:
            self.is_full.set()


def test_orders_are_computed_in_the_order_in_which_they_came() -> None:
    async def run() -> None:
        computer = Computer(200)
        supervisor = Supervisor(SystemClock())
        orders = [ComputeLogits(num_rows=number) for number in range(200)]
        reference = supervisor.ref("link", "follower")
        for order in orders[:100]:
            reference.tell(order)  # some come before it is there
        supervisor.add(Group("follower", {"follower": lambda: Follower(computer)}, max_restarts=0))
        await supervisor.start()
        for order in orders[100:]:
            reference.tell(order)
        await computer.is_full.wait()
        assert computer.orders == orders
        await supervisor.stop()

    asyncio.run(run())


def test_an_order_that_can_not_be_taken_is_not_left_out_in_silence() -> None:
    async def run() -> None:
        computer = Computer(1)
        supervisor = Supervisor(SystemClock())
        supervisor.add(Group("follower", {"follower": lambda: Follower(computer)}, max_restarts=0))
        await supervisor.start()
        for number in range(3):
            supervisor.ref("link", "follower").tell(ComputeLogits(num_rows=number))
        with pytest.raises(Escalated, match="the worker has ended"):
            await supervisor.wait()
        assert computer.orders == [ComputeLogits(num_rows=0)]
        await supervisor.stop()

    asyncio.run(run())
