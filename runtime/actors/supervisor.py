"""The supervisor: starts actors in order, notices when one crashes, restarts it or its group, stops them in reverse.

Owns every mailbox and every actor task; mailboxes outlive the actors, so a restart loses at most the message that crashed.
A *group* is restarted together and its mailboxes are cleared, because its members' states only make sense together; a
group of one is an edge actor. More than `max_restarts` in `window_s` seconds escalates: `wait` raises `Escalated`.
What a crash means for the requests in flight is not known here: `on_crash` of the group says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.actors.actor import Actor, Ref
from runtime.actors.mailbox import Envelope, Mailbox
from runtime.clock import Clock
from runtime.errors import EngineError
from runtime.messages import Message

log = logging.getLogger(__name__)


class Escalated(EngineError):
    """An actor crashed more often than its supervisor tolerates."""


@dataclass(frozen=True)
class Crash:
    """What `on_crash` is told: who failed, why, and the messages that were lost with it."""

    name: str
    error: BaseException
    lost: tuple[Message, ...]


@dataclass
class Group:
    """Actors that live and die together. `factories` are called again at each restart."""

    name: str
    factories: dict[str, Callable[[], Actor]]
    on_crash: Callable[[Crash], None] = lambda crash: None
    max_restarts: int = 3
    window_s: float = 60.0
    crash_times: deque[float] = field(default_factory=deque)


Observer = Callable[[str, Envelope], None]


class Supervisor:
    """One per process. `observe` sees each (receiver, envelope) just before it is handled; the journal is one."""

    def __init__(
        self,
        clock: Clock,
        *,
        make_mailbox: Callable[[str], Mailbox] = Mailbox,
        observe: Observer = lambda receiver, envelope: None,
    ) -> None:
        self._clock = clock
        self._make_mailbox = make_mailbox
        self._observe = observe
        self._mailboxes: dict[str, Mailbox] = {}
        self._groups: list[Group] = []
        self._actors: dict[str, Actor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._escalated: asyncio.Future[None] | None = None
        self.num_restarts = 0

    def ref(self, sender: str, receiver: str) -> Ref:
        """A reference for `sender`; the receiver need not exist yet."""
        return Ref(sender, self.mailbox(receiver))

    def mailbox(self, name: str) -> Mailbox:
        if name not in self._mailboxes:
            self._mailboxes[name] = self._make_mailbox(name)
        return self._mailboxes[name]

    def add(self, group: Group) -> None:
        """Register a group; groups start in the order in which they were added."""
        self._groups.append(group)

    async def start(self) -> None:
        self._escalated = asyncio.get_running_loop().create_future()
        for group in self._groups:
            await self._start_group(group)

    async def wait(self) -> None:
        """Returns only by raising `Escalated`."""
        assert self._escalated is not None, "start comes first"
        await asyncio.shield(self._escalated)

    async def stop(self) -> None:
        """Stop all actors in reverse order. What is still in their mailboxes is dropped."""
        for group in reversed(self._groups):
            for name in reversed(list(group.factories)):
                await self._cancel(name)
                await self._actors.pop(name).stopped()
        if self._escalated is not None:
            self._escalated.cancel()

    async def _start_group(self, group: Group) -> None:
        for name, factory in group.factories.items():
            actor = factory()
            await actor.started()
            self._actors[name] = actor
            self._tasks[name] = asyncio.create_task(self._run(group, name, actor), name=name)

    async def _run(self, group: Group, name: str, actor: Actor) -> None:
        """Feed one actor from its mailbox until it crashes or is cancelled."""
        mailbox = self.mailbox(name)
        while True:
            batch = await mailbox.drain()
            position = 0
            try:
                for position, envelope in enumerate(batch):  # noqa: B007 - read after a crash
                    self._observe(name, envelope)
                    await actor.handle(envelope)
                position = len(batch)
                await actor.after_batch()
            except Exception as error:
                mailbox.put_back([e for e in batch[position + 1 :] if e.reply is None])
                lost = tuple(e.message for e in batch[position : position + 1])
                # The restart cancels this very task when the group is restarted, so it runs as its own.
                self._tasks[name] = asyncio.create_task(self._restart(group, Crash(name, error, lost)))
                return
            await asyncio.sleep(0)  # a mailbox that is never empty must not starve the loop

    async def _restart(self, group: Group, crash: Crash) -> None:
        log.error("%s crashed: %s", crash.name, crash.error, exc_info=crash.error)
        self.num_restarts += 1
        if self._is_too_often(group):
            self._escalate(Escalated(f"{crash.name} crashed {group.max_restarts + 1} times: {crash.error}"))
            return
        lost = list(crash.lost)
        if len(group.factories) > 1:
            for name in group.factories:
                if name != crash.name:
                    await self._cancel(name)
            for name in group.factories:
                lost += [envelope.message for envelope in self.mailbox(name).clear()]
        await self._start_group(group)
        group.on_crash(Crash(crash.name, crash.error, tuple(lost)))

    def _is_too_often(self, group: Group) -> bool:
        now = self._clock.monotonic()
        group.crash_times.append(now)
        while group.crash_times[0] < now - group.window_s:
            group.crash_times.popleft()
        return len(group.crash_times) > group.max_restarts

    def _escalate(self, error: Escalated) -> None:
        if self._escalated is not None and not self._escalated.done():
            self._escalated.set_exception(error)

    async def _cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is None or task is asyncio.current_task():
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
