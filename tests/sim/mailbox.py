"""A mailbox that does everything a mailbox may do: whose messages come first, how many at once, and when.

Order is kept per sender and control overtakes data; nothing else is promised to actors, so everything else is chosen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from runtime.actors.mailbox import Envelope, Mailbox, MailboxFull
from tests.sim.choices import Choices

_TOLERANCE_S = 1e-8
"""The loop may call a timer this much early, because sums of seconds are not exact."""


@dataclass(frozen=True)
class Weather:
    """How rough delivery is. A message is late with `late_probability`, by less than `most_late_s` virtual seconds."""

    late_probability: float = 0.0
    most_late_s: float = 0.0
    is_shuffled: bool = True


@dataclass
class _Late:
    due_s: float
    envelope: Envelope


class ShuffledMailbox(Mailbox):
    """One queue per sender; `_take` merges them as the choices say."""

    def __init__(self, owner: str, choices: Choices, weather: Weather, capacity: int) -> None:
        super().__init__(owner, capacity)
        self._choices = choices
        self._weather = weather
        self._queues: dict[str, deque[_Late]] = {}

    def __len__(self) -> int:
        return len(self._control) + sum(len(queue) for queue in self._queues.values())

    def put(self, envelope: Envelope) -> None:
        if len(self) - len(self._control) >= self.capacity:
            raise MailboxFull(f"the mailbox of {self.owner} is full ({self.capacity} messages)")
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(envelope.sender, deque())
        due_s = max(queue[-1].due_s if queue else 0.0, loop.time() + self._delay_s())
        queue.append(_Late(due_s, envelope))
        if due_s > loop.time():
            loop.call_at(due_s, self._wake)
        else:
            self._wake()

    def clear(self) -> list[Envelope]:
        dropped = [*self._control, *(late.envelope for queue in self._queues.values() for late in queue)]
        self._control.clear()
        self._queues.clear()
        return dropped

    def put_back(self, envelopes: list[Envelope]) -> None:
        for envelope in reversed(envelopes):
            if envelope.is_control:
                self._control.appendleft(envelope)
            else:
                self._queues.setdefault(envelope.sender, deque()).appendleft(_Late(0.0, envelope))
        self._wake()

    def senders(self) -> dict[str, list[str]]:
        """What waits, by sender, for reports."""
        return {
            sender: [type(late.envelope.message).__name__ for late in queue] for sender, queue in self._queues.items() if queue
        }

    def _is_due(self) -> bool:
        return bool(self._control) or bool(self._due_counts())

    def _due_counts(self) -> dict[str, int]:
        """How many messages of each sender may be handled now."""
        now = asyncio.get_running_loop().time()
        counts = {sender: _num_due(queue, now) for sender, queue in self._queues.items()}
        return {sender: count for sender, count in counts.items() if count}

    def _take(self) -> list[Envelope]:
        batch = list(self._control)
        self._control.clear()
        counts = self._due_counts()
        if not self._weather.is_shuffled:
            return batch + [self._queues[sender].popleft().envelope for sender, count in counts.items() for _ in range(count)]
        num_taken = self._num_taken(sum(counts.values()), may_be_none=bool(batch))
        for _ in range(num_taken):
            sender = self._choices.pick(list(counts), "sender") if len(counts) > 1 else next(iter(counts))
            batch.append(self._queues[sender].popleft().envelope)
            counts[sender] -= 1
            if not counts[sender]:
                del counts[sender]
        return batch

    def _num_taken(self, num_due: int, may_be_none: bool) -> int:
        """Mostly all, as in production; sometimes fewer, as if the others came a moment later."""
        fewest = 0 if may_be_none else 1
        if num_due <= fewest or not self._choices.chance(0.3, "take fewer"):
            return num_due
        return self._choices.between(fewest, num_due, "num taken")

    def _delay_s(self) -> float:
        if self._weather.late_probability and self._choices.chance(self._weather.late_probability, "late"):
            return self._choices.seconds(self._weather.most_late_s, "delay")
        return 0.0


def _num_due(queue: deque[_Late], now_s: float) -> int:
    count = 0
    for late in queue:
        if late.due_s > now_s + _TOLERANCE_S:
            break
        count += 1
    return count
