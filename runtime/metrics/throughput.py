"""Tokens per second over the last few seconds; 0 when nothing was generated in them. Pure: it is told the time."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0


class Throughput:
    """A moving window. The first record after a pause only starts the clock: what came before it took unknown time."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._records: deque[tuple[float, int]] = deque()
        self._num_tokens = 0
        self._busy_since = 0.0

    def record(self, now: float, num_tokens: int) -> None:
        self._forget(now)
        if not self._records:
            self._busy_since, num_tokens = now, 0
        self._records.append((now, num_tokens))
        self._num_tokens += num_tokens

    def rate(self, now: float) -> float:
        """Tokens per second."""
        self._forget(now)
        span_s = min(self._window_s, now - self._busy_since)
        return self._num_tokens / span_s if self._records and span_s > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._records and self._records[0][0] < now - self._window_s:
            self._num_tokens -= self._records.popleft()[1]
