"""The one way in for time: actors are given a `Clock`, so that the simulator can give them a virtual one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds. `monotonic` is for durations and deadlines, `wall` only for what people and clients read."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
