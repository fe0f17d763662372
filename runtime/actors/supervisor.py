"""The supervisor: starts actors in order, notices when one crashes, restarts it or its group, stops them in reverse.

Owns every mailbox and every actor task; mailboxes outlive the actors, so a restart loses at most the messages of the
batch that crashed. A *group* is restarted together and its mailboxes are cleared, because its members' states only make
sense together; a group of one is an edge actor and keeps what waits in its mailbox. More than `max_restarts` in `window_s`
seconds escalates: `wait` raises `Escalated`; an error that no restart can mend is raised there at once. What a crash means for
the requests in flight is not known here: `on_crash` of the group says so. It is called while no member lives, so what it sends
is ahead of everything that the new members send.

Invariant: of each group, at most one restart runs at a time; every lost ask is answered with an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
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
    """What `on_crash` is told: who failed, why, and the messages that were lost with it.

    An actor with `after_batch` works on its batch as a whole, so it loses all of it up to the message it failed on.
    """

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
    crashes: deque[Crash] = field(default_factory=deque)
    """What the restart under way, or the next one, has to deal with."""


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
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._deferred: dict[str, list[Envelope]] = {}
        """Asks that were handled, and whose answers will come later."""
        self._escalated: asyncio.Future[None] | None = None
        self._is_stopping = False
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
        """Start all actors. Raises what the first `started` that fails raised, after the others have been stopped."""
        self._escalated = asyncio.get_running_loop().create_future()
        try:
            for group in self._groups:
                for name in group.factories:
                    await self._start_actor(group, name)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Returns only by raising `Escalated`, or the error of an actor that no restart can mend."""
        assert self._escalated is not None, "start comes first"
        await asyncio.shield(self._escalated)

    async def stop(self) -> None:
        """Stop all actors in reverse order; idempotent. What is still in their mailboxes is dropped, asks get an error."""
        self._is_stopping = True
        while self._restarts:
            await _cancelled(self._restarts.popitem()[1])
        for group in reversed(self._groups):
            for name in reversed(list(group.factories)):
                await self._stop_actor(name)
        for name, mailbox in self._mailboxes.items():
            _lose([*self._deferred.pop(name, ()), *mailbox.clear()], f"{name} has stopped")
        if self._escalated is not None:
            self._escalated.cancel()
            if not self._escalated.cancelled():
                self._escalated.exception()  # marks it as seen, if nobody waited for it

    async def _start_actor(self, group: Group, name: str) -> None:
        actor = group.factories[name]()
        await actor.started()
        self._actors[name] = actor
        self._tasks[name] = asyncio.create_task(self._run(group, name, actor), name=name)

    async def _stop_actor(self, name: str) -> None:
        await self._cancel(name)
        actor = self._actors.pop(name, None)
        if actor is None:  # it never started, or crashed
            return
        try:
            await actor.stopped()
        except Exception:
            log.exception("%s did not stop cleanly", name)

    async def _run(self, group: Group, name: str, actor: Actor) -> None:
        """Feed one actor from its mailbox until it crashes or is cancelled."""
        mailbox = self.mailbox(name)
        while True:
            batch = await mailbox.drain()
            num_begun = 0
            try:
                for num_begun, envelope in enumerate(batch, 1):  # noqa: B007 - read after a crash
                    self._observe(name, envelope)
                    await actor.handle(envelope)
                    if envelope.is_open:
                        self._defer(name, envelope)
                await actor.after_batch()
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancellation(error):
                    raise
                self._crashed(group, Crash(name, error, _lost_with(actor, batch[:num_begun])))
                return
            finally:
                mailbox.put_back(batch[num_begun:])
            await asyncio.sleep(0)  # a mailbox that is never empty must not starve the loop

    def _defer(self, name: str, envelope: Envelope) -> None:
        open_asks = [other for other in self._deferred.get(name, ()) if other.is_open]
        self._deferred[name] = [*open_asks, envelope]

    def _crashed(self, group: Group, crash: Crash) -> None:
        """Note a crash and begin to restart its group. A restart under way takes care of it too."""
        log.error("%s crashed: %s", crash.name, crash.error, exc_info=crash.error)
        group.crashes.append(crash)
        self._actors.pop(crash.name, None)
        if group.name not in self._restarts and not self._is_stopping:
            # The restart cancels the members' tasks, this very task among them, so it runs as its own.
            self._restarts[group.name] = asyncio.create_task(self._restart(group), name=f"restart {group.name}")

    async def _restart(self, group: Group) -> None:
        """Restart until all members run: one may crash while the others still start."""
        while group.crashes:
            crash = await self._bury(group)
            if isinstance(crash.error, EngineError) and crash.error.is_final:
                self._escalate(crash.error)
                break
            if self._is_too_often(group):
                self._escalate(Escalated(f"{crash.name} crashed {len(group.crash_times)} times: {crash.error}"))
                break
            self.num_restarts += 1
            await self._start_again(group)
        self._restarts.pop(group.name, None)

    async def _bury(self, group: Group) -> Crash:
        """End the members that are left, drop what they share and tell `on_crash`. Returns the first crash."""
        for name in group.factories:
            await self._cancel(name)
            self._actors.pop(name, None)
            _lose(self._deferred.pop(name, ()), f"{group.crashes[0].name} crashed")
        crash = group.crashes[0]
        lost = [message for each in group.crashes for message in each.lost]
        group.crashes.clear()
        if len(group.factories) > 1:
            for name in group.factories:
                lost += _lose(self.mailbox(name).clear(), f"{crash.name} crashed")
        crash = Crash(crash.name, crash.error, tuple(lost))
        try:
            group.on_crash(crash)
        except Exception as error:
            self._escalate(Escalated(f"{crash.name} crashed and its requests could not be ended: {error}"))
        return crash

    async def _start_again(self, group: Group) -> None:
        """Start the members; one that fails to start has crashed again."""
        for name in group.factories:
            try:
                await self._start_actor(group, name)
            except Exception as error:
                self._crashed(group, Crash(name, error, ()))
                return

    def _is_too_often(self, group: Group) -> bool:
        now = self._clock.monotonic()
        group.crash_times.append(now)
        while group.crash_times[0] < now - group.window_s:
            group.crash_times.popleft()
        return len(group.crash_times) > group.max_restarts

    def _escalate(self, error: EngineError) -> None:
        if self._escalated is not None and not self._escalated.done():
            self._escalated.set_exception(error)

    async def _cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            await _cancelled(task)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])


def _is_cancellation(error: BaseException) -> bool:
    """Tells the supervisor's cancellation from a handler that awaited something which was cancelled: that is a crash."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _lost_with(actor: Actor, begun: list[Envelope]) -> tuple[Message, ...]:
    """The messages of a crashed batch whose effect is gone, out of those that were begun."""
    works_per_batch = type(actor).after_batch is not Actor.after_batch
    return tuple(envelope.message for envelope in (begun if works_per_batch else begun[-1:]))


def _lose(envelopes: Iterable[Envelope], reason: str) -> list[Message]:
    """Fail the asks among `envelopes`; returns the messages."""
    messages = []
    for envelope in envelopes:
        envelope.fail(reason)
        messages.append(envelope.message)
    return messages
