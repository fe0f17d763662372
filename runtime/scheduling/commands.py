"""Commands to the engine, as far as the scheduler decides them: when they may run, and what waits for them.

Pure. Owns the pause, the memory that was given back, and the commands that want the engine for themselves: new weights, memory
given back or taken again. Those run one at a time, in the order of arrival, on an engine without requests in the batch and
without pages on their way; until then no new request is admitted. Everything else passes them by.
Invariant: each command is answered exactly once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.errors import Conflict
from runtime.messages import (
    CommandRan,
    Done,
    EngineCommand,
    FlushCache,
    PauseMode,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RunCommand,
    UpdateWeights,
)
from runtime.scheduling.effects import Outbox

ExclusiveCommand = UpdateWeights | ReleaseMemory | ResumeMemory


@dataclass(frozen=True)
class _Exclusive:
    command_id: int
    command: ExclusiveCommand


class Commands:
    """`advance` sends what may run now; `ran` takes the executor's answers."""

    def __init__(self, out: Outbox) -> None:
        self.pause: PauseMode | None = None
        self.released: set[str] = set()
        self._out = out
        self._waiting: deque[_Exclusive] = deque()
        self._running: _Exclusive | None = None
        self._pausing: list[int] = []

    @property
    def is_holding(self) -> bool:
        """Whether no step may be planned: a pause, memory that is away, or a command that has the engine."""
        return self.pause is not None or bool(self.released) or self._running is not None

    @property
    def is_draining(self) -> bool:
        """Whether a command waits for the requests that have begun to run; others have to wait for it."""
        return bool(self._waiting)

    @property
    def needs_empty_batch(self) -> bool:
        """Whether paused requests have to give their pages back, since new weights make these worthless."""
        return self.pause is not None and bool(self._waiting) and isinstance(self._waiting[0].command, UpdateWeights)

    def begin_pause(self, command_id: int, mode: PauseMode) -> None:
        """Answered once no step is in flight."""
        self.pause = mode
        self._pausing.append(command_id)

    def end_pause(self, command_id: int) -> None:
        self.pause = None
        self.answer(command_id, Done())

    def enqueue(self, command_id: int, command: ExclusiveCommand, *, has_requests: bool) -> None:
        """Wait for the engine, or be refused at once."""
        if isinstance(command, ReleaseMemory) and has_requests:
            self._refuse(command_id, "memory can only be given back while no request is open")
        elif isinstance(command, UpdateWeights) and self.released:
            self._refuse(command_id, "the engine's memory was given back: resume it before new weights are loaded")
        else:
            self._waiting.append(_Exclusive(command_id, command))

    def run(self, command_id: int, command: EngineCommand) -> None:
        """Have the executor do it between two steps."""
        self._out.send("executor", RunCommand(command_id=command_id, command=command))

    def advance(self, *, is_empty: bool, has_steps: bool) -> None:
        """`is_empty`: nothing runs, and no page is on its way; `has_steps`: steps are in flight."""
        if self._pausing and not has_steps:
            for command_id in self._pausing:
                self.answer(command_id, Done())
            self._pausing.clear()
        if self._waiting and self._running is None and (is_empty or isinstance(self._waiting[0].command, ResumeMemory)):
            self._running = self._waiting.popleft()
            self.run(self._running.command_id, self._running.command)

    def ran(self, message: CommandRan) -> None:
        """The executor's answer goes to the asker. What the cache holds is worthless under other weights or in new memory."""
        running = self._running
        if running is not None and running.command_id == message.command_id:
            self._running = None
            if isinstance(message.answer, Done):
                self._settle(running.command)
        self.answer(message.command_id, message.answer)

    def answer(self, command_id: int, answer: Done | Refused) -> None:
        self._out.send("asker", CommandRan(command_id=command_id, answer=answer))

    def _settle(self, command: ExclusiveCommand) -> None:
        match command:
            case UpdateWeights():
                self._out.send("cache", FlushCache())
            case ReleaseMemory(tags=tags):
                self.released.update(tags)
                self._out.send("cache", FlushCache())
            case ResumeMemory(tags=tags):
                self.released.difference_update(tags)

    def _refuse(self, command_id: int, reason: str) -> None:
        self.answer(command_id, Refused(failure=Conflict(reason).failure))
