"""The gate: how many lines pass beside how many interactive requests."""

from __future__ import annotations

import asyncio

import pytest

from runtime.batch_port import Load
from runtime.batches.gate import Gate


@pytest.mark.parametrize(
    ("num_slots", "num_interactive", "max_open", "limit"),
    [
        (8, 0, None, 4),
        (8, 3, None, 4),
        (8, 5, None, 3),
        (8, 7, None, 1),
        (8, 50, None, 1),
        (8, 0, 6, 6),
        (8, 5, 6, 3),
        (1, 0, None, 1),
    ],
)
def test_lines_take_what_interactive_requests_leave(
    num_slots: int, num_interactive: int, max_open: int | None, limit: int
) -> None:
    async def main() -> None:
        gate = Gate(lambda: Load(num_slots, num_interactive + gate.num_open), max_open)
        for _ in range(limit):
            assert gate.limit == limit
            await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.leave()
        await waiting
        assert gate.num_open == limit

    asyncio.run(main())


def test_room_that_interactive_requests_make_is_seen() -> None:
    async def main() -> None:
        num_interactive = 8
        gate = Gate(lambda: Load(8, num_interactive + gate.num_open))
        await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        num_interactive = 0
        async with asyncio.timeout(5):
            await waiting

    asyncio.run(main())


def test_a_cancelled_wait_leaves_the_gate_to_others() -> None:
    """Also when it is cancelled at the moment at which it could pass."""

    async def main() -> None:
        gate = Gate(lambda: Load(2, gate.num_open))
        await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0.001)
        gate.leave()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(5):
            await gate.enter()
        assert gate.num_open == 1

    asyncio.run(main())
