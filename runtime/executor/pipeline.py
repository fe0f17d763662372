"""The steps that a device computes, between the thread that launches them and the one that completes them.

Invariant: steps come out in the order in which they went in, and at most `MAX_IN_FLIGHT` are inside.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

MAX_IN_FLIGHT = 2
"""One computes while the next one waits behind it; more would only be older plans."""

Step = TypeVar("Step")


class Pipeline(Generic[Step]):
    """The launcher calls `admit`, `put`, `settle` and `close`, the completer `take` and `retire`."""

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._max_in_flight = max_in_flight
        self._steps: deque[Step] = deque()
        self._num_in_flight = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def admit(self) -> bool:
        """Wait until another step may be launched; False if nobody completes any more."""
        return self._wait_for_in_flight(self._max_in_flight - 1)

    def settle(self) -> bool:
        """Wait until every step that was put in is complete; False if nobody completes any more."""
        return self._wait_for_in_flight(0)

    def put(self, step: Step) -> None:
        with self._changed:
            self._steps.append(step)
            self._num_in_flight += 1
            self._changed.notify_all()

    def take(self) -> Step | None:
        """The oldest step, when there is one; None once the pipeline is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._is_closed)
            return self._steps.popleft() if self._steps else None

    def retire(self) -> None:
        """The step taken last is complete."""
        with self._changed:
            self._num_in_flight -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is put in, or completed: whoever waits goes on. The steps inside can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait_for_in_flight(self, most: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._num_in_flight <= most or self._is_closed)
            return self._num_in_flight <= most
