"""A mailbox: where an actor finds its messages.

Owns two lanes. Data is bounded and FIFO per sender; control (stop, drain, probe, scrape) is unbounded and overtakes data.
One `drain` hands over all that is there, so a burst costs one wake-up. A full data lane is a bug inside the pipeline,
since requests are refused at the door before it can fill: `put` raises `MailboxFull` and the sender's supervisor acts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from runtime.errors import CallboardError
from runtime.messages import Message

CAPACITY = 4096


class MailboxFull(CallboardError):
    """A data lane is at its capacity: some actor does not keep up or a cycle produces without end."""


class Envelope(NamedTuple):
    """A message on its way. `reply` is set when the sender asked and waits."""

    sender: str
    message: Message
    reply: asyncio.Future[object] | None = None
    is_control: bool = False

    def answer(self, value: object) -> None:
        """Resolve the ask, unless nobody asked or the asker's deadline has passed."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(value)

    def answer_with(self, future: asyncio.Future[object]) -> None:
        """Answer with what a future holds that is done."""
        if future.cancelled():
            self.fail("it gave the answer up")
        else:
            self.answer(future.result())

    @property
    def is_open(self) -> bool:
        """Whether somebody asked and still waits."""
        return self.reply is not None and not self.reply.done()

    def fail(self, reason: object) -> None:
        """End the ask with a `ConnectionError`, unless nobody asked or the asker's deadline has passed."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(ConnectionError(f"the actor failed: {reason}"))


class Mailbox:
    """Single-consumer queue of envelopes, filled from the same event loop."""

    def __init__(self, owner: str, capacity: int = CAPACITY) -> None:
        self.owner = owner
        self.capacity = capacity
        self._data: deque[Envelope] = deque()
        self._control: deque[Envelope] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._data) + len(self._control)

    def put(self, envelope: Envelope) -> None:
        """Append to the data lane. Raises `MailboxFull`."""
        if len(self._data) >= self.capacity:
            raise MailboxFull(f"the mailbox of {self.owner} is full ({self.capacity} messages)")
        self._data.append(envelope)
        self._wake()

    def put_control(self, envelope: Envelope) -> None:
        """Append to the control lane, which is drained first."""
        self._control.append(envelope._replace(is_control=True))
        self._wake()

    async def drain(self) -> list[Envelope]:
        """All envelopes that may be handled now, control first; waits while there is none."""
        while not self._is_due():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def clear(self) -> list[Envelope]:
        """Drop everything; returns what was dropped, so that requests in it can be answered."""
        dropped = [*self._control, *self._data]
        self._control.clear()
        self._data.clear()
        return dropped

    def put_back(self, envelopes: list[Envelope]) -> None:
        """Return drained but unhandled envelopes to the front of their lanes, after a crash in the middle of a batch."""
        if not envelopes:
            return
        for envelope in reversed(envelopes):
            lane = self._control if envelope.is_control else self._data
            lane.appendleft(envelope)
        self._wake()

    def _is_due(self) -> bool:
        """Whether `_take` would return something."""
        return len(self) > 0

    def _take(self) -> list[Envelope]:
        return self.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
