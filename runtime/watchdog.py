"""The watchdog: notices an engine that has work and does not get on with it.

Asks the scheduler for its step counter; liveness is that the counter moves while there is work, not that HTTP answers 200.
"""

from __future__ import annotations

import asyncio

from runtime.actors.actor import Ref
from runtime.clock import Clock
from runtime.errors import EngineError
from runtime.messages import Probe, SchedulerState

LOOKS_PER_TIMEOUT = 10


async def watch(scheduler: Ref, clock: Clock, timeout_s: float) -> None:
    """Returns only by raising `EngineError`, once nothing has moved for `timeout_s` seconds although there was work."""
    moved_at, num_steps = clock.monotonic(), -1
    while clock.monotonic() - moved_at < timeout_s:
        state = await _probe(scheduler, timeout_s)
        if state is not None and (state.num_steps != num_steps or not _has_work(state)):
            moved_at, num_steps = clock.monotonic(), state.num_steps
        await asyncio.sleep(timeout_s / LOOKS_PER_TIMEOUT)
    raise EngineError(f"no step has ended for {timeout_s:g} s although there is work (--watchdog-timeout)")


async def _probe(scheduler: Ref, deadline_s: float) -> SchedulerState | None:
    """None while the scheduler restarts or does not answer: then nothing has moved."""
    try:
        state: SchedulerState = await scheduler.ask(Probe(), deadline_s)
    except (TimeoutError, ConnectionError):
        return None
    return state


def _has_work(state: SchedulerState) -> bool:
    return not state.is_held and state.num_waiting + state.num_running + state.num_in_flight_steps > 0
