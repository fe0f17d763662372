"""Progress: whether the engine does its work, told by its step counter and not by the fact that HTTP answers."""

from __future__ import annotations

from runtime.messages import SchedulerState

STALL_S = 30.0
"""More than the longest step: a whole chunk of prefill on a slow machine."""


class Progress:
    """Remembers when the counter was last seen to move."""

    def __init__(self) -> None:
        self._num_steps = -1
        self._moved_at = 0.0

    def is_stalled(self, state: SchedulerState, now: float, busy_since: float) -> bool:
        """`now` and `busy_since`, when there was last nothing to do, are on the monotonic clock."""
        if state.num_steps != self._num_steps or state.is_held:
            self._num_steps, self._moved_at = state.num_steps, now
        has_work = state.num_waiting + state.num_running > 0
        return has_work and now - max(self._moved_at, busy_since) > STALL_S
