"""A clock that tests move by hand, and the messages they send."""

from __future__ import annotations

from runtime.messages import Message


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s


class Said(Message, frozen=True):
    text: str


class Asked(Message, frozen=True):
    text: str
