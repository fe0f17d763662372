"""The journal: what was delivered to whom, for the hour after a crash and for the simulator.

`Journal` owns a ring of the last deliveries' headers. It is cheap enough for every run and is given to the supervisor as
its `observe`. `FullJournal` keeps every delivery with a digest of its content, and every choice that the simulator made, as
JSON lines: two runs are the same run if and only if their lines are.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runtime.actors.mailbox import Envelope
from runtime.clock import Clock
from runtime.messages import Message

log = logging.getLogger(__name__)

NUM_KEPT = 10_000


class Delivery(NamedTuple):
    """The header of one delivered message. `time_s` is on the monotonic clock."""

    seq: int
    time_s: float
    sender: str
    receiver: str
    type: str


class Journal:
    """The last `num_kept` deliveries. Call it with each (receiver, envelope) just before it is handled."""

    def __init__(self, clock: Clock, num_kept: int = NUM_KEPT) -> None:
        self._clock = clock
        # Envelopes are taken apart only when somebody reads; messages are not kept, since they may be large.
        self._ring: deque[tuple[int, float, str, str, type[Message]]] = deque(maxlen=num_kept)
        self.num_deliveries = 0

    def __call__(self, receiver: str, envelope: Envelope) -> None:
        self.num_deliveries += 1
        header = (self.num_deliveries, self._clock.monotonic(), envelope.sender, receiver, type(envelope.message))
        self._ring.append(header)

    def deliveries(self) -> list[Delivery]:
        """What the ring holds, oldest first."""
        return [Delivery(seq, time_s, sender, receiver, kind.__name__) for seq, time_s, sender, receiver, kind in self._ring]

    def dump(self, reason: str) -> None:
        """Write the ring to the log as one record, oldest delivery first."""
        lines = [f"#{d.seq} {d.time_s:.6f} {d.sender} -> {d.receiver} {d.type}" for d in self.deliveries()]
        log.error("%s; the last %d deliveries:\n%s", reason, len(lines), "\n".join(lines))


class FullJournal:
    """Every delivery and every choice of one run, in order. `digest` identifies the whole of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._encode = msgspec.msgpack.Encoder().encode  # messages have no sets, and their dicts are filled in order
        self._encode_line = msgspec.json.Encoder().encode
        self.lines: list[str] = []

    def __call__(self, receiver: str, envelope: Envelope) -> None:
        message = envelope.message
        content = hashlib.sha256(self._encode(message)).hexdigest()[:16]
        self._write("delivery", [self._clock.monotonic(), envelope.sender, receiver, type(message).__name__, content])

    def note(self, kind: str, value: Any) -> None:
        """Record anything else that belongs to the run; `value` must be JSON."""
        self._write(kind, value)

    def digest(self) -> str:
        """SHA-256 over all lines, in hex."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the lines. Raises `OSError`."""
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def _write(self, kind: str, value: Any) -> None:
        self.lines.append(self._encode_line((kind, value)).decode())


def read(path: Path) -> list[tuple[str, Any]]:
    """The (kind, value) pairs of a saved `FullJournal`. Raises `OSError` and `msgspec.DecodeError`."""
    return [tuple(msgspec.json.decode(line)) for line in path.read_text(encoding="utf-8").splitlines()]
