"""One run: the real actors on virtual time, from the first request until nothing is left to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runtime.actors.journal import FullJournal, read
from runtime.actors.mailbox import Envelope
from runtime.assembly import CACHE, Assembly, Parts
from runtime.errors import EngineError
from runtime.messages import Done, FlushCache, Refused
from runtime.metrics.registry import Registry
from tests.fakes.compiler import FakeCompiler
from tests.sim import scenario as scenarios
from tests.sim import vocabulary
from tests.sim.audience import Client
from tests.sim.choices import Choices
from tests.sim.faults import CrashingSupervisor, FaultyExecutor
from tests.sim.invariants import Inspector, Judge, Violation, demand
from tests.sim.loop import SimulationDeadlock, SimulationTooLong, VirtualClock, VirtualLoop, run
from tests.sim.mailbox import ShuffledMailbox
from tests.sim.oracle import Oracle
from tests.sim.scenario import Ask

MAILBOX_CAPACITY = 512
HORIZON_S = 3_000.0
PATIENCE_S = 30.0
"""What the server still does after the last client has gone must be over by then."""

_VOCABULARY = vocabulary.build()

FAILURES = (AssertionError, SimulationDeadlock, SimulationTooLong, EngineError)
"""What a run may raise: a broken promise, nothing that can go on, no end, or an escalation."""


@dataclass(frozen=True)
class Result:
    """`problem` is None if every promise held."""

    seed: int
    problem: str | None
    journal: FullJournal
    num_deliveries: int
    virtual_s: float


class Theatre:
    """Everything that one run is made of."""

    def __init__(self, choices: Choices) -> None:
        self.loop = VirtualLoop(HORIZON_S)
        clock = VirtualClock(self.loop)
        self.journal = FullJournal(clock)
        self.num_deliveries = 0
        self.journal.note("seed", choices.seed)
        choices.note = partial(self.journal.note, "choice")
        self.scenario = scenarios.draw(choices)
        self.supervisor = CrashingSupervisor(
            clock,
            make_mailbox=lambda name: ShuffledMailbox(name, choices, self.scenario.weather, MAILBOX_CAPACITY),
            observe=self._observe,
        )
        self.supervisor.arrange(self.scenario.crashes)
        self.executor = FaultyExecutor(self.scenario.limits, self.loop, self.scenario.step_s, self.scenario.step_faults)
        self.compiler = FakeCompiler(
            self.loop, self.scenario.compile_s, self.scenario.num_kept_grammars, self.scenario.compile_faults
        )
        parts = Parts(
            config=self.scenario.config,
            executor=self.executor,
            vocabulary=_VOCABULARY,
            chat_template=None,
            registry=Registry("simulated"),
            clock=clock,
            grammars=self.compiler,
        )
        self.assembly = Assembly(parts, self.supervisor)
        self.inspector = Inspector(self.scenario, self.assembly, self.supervisor, self.executor, self.compiler)
        self.clients = [
            Client(number, script, self.assembly.replies, self.loop) for number, script in enumerate(self.scenario.scripts)
        ]
        self.loop.describe = self._describe
        self.loop.after_round = self.inspector.check_round
        self.loop.set_exception_handler(self._on_stray_error)

    async def play(self) -> None:
        """Raises whatever shows that a promise does not hold."""
        await self.supervisor.start()
        for at_s in self.scenario.flushes_s:
            self.loop.call_at(at_s, self._flush)
        others = asyncio.gather(
            self._drain(),
            *[self._ask(ask) for ask in self.scenario.asks],
            *[self._order(order) for order in self.scenario.orders],
        )
        escalated = asyncio.ensure_future(self.supervisor.wait())
        everybody = asyncio.gather(*[client.play() for client in self.clients])
        await asyncio.wait([everybody, escalated], return_when=asyncio.FIRST_COMPLETED)
        if escalated.done():
            escalated.result()
        everybody.result()
        await others
        escalated.cancel()
        await self._settle()
        self.inspector.check_counts()
        judge = Judge(self.scenario, Oracle(_VOCABULARY, self.scenario.limits), self.compiler)
        for client in self.clients:
            judge.judge(client)
        await self.supervisor.stop()

    async def _settle(self) -> None:
        """Wait until the server is idle. Raises `Violation` if something is left then."""
        until_s = self.loop.time() + PATIENCE_S
        while (leftovers := self.inspector.leftovers()) is not None:
            if self.loop.time() > until_s:
                raise Violation(leftovers)
            await asyncio.sleep(0.5)

    def _observe(self, receiver: str, envelope: Envelope) -> None:
        self.num_deliveries += 1
        self.journal(receiver, envelope)
        self.inspector.observe(receiver, envelope)

    async def _drain(self) -> None:
        drainage = self.scenario.drain
        if drainage is None:
            return
        await asyncio.sleep(drainage.at_s)
        self.assembly.replies.refuse()
        await self.assembly.replies.wait_idle(drainage.deadline_s)

    async def _ask(self, ask: Ask) -> None:
        """Raises `Violation` if there is neither an answer nor an error in time."""
        await asyncio.sleep(ask.at_s)
        with contextlib.suppress(TimeoutError, ConnectionError):
            await self.supervisor.ref("simulator", ask.name).ask(ask.message, ask.deadline_s)
        waited_s = self.loop.time() - ask.at_s
        demand(waited_s <= ask.deadline_s + 1e-6, f"an ask with a deadline of {ask.deadline_s} s took {waited_s} s")

    async def _order(self, order: Ask) -> None:
        """Raises `Violation` if a command gets no answer although nothing broke."""
        await asyncio.sleep(order.at_s)
        try:
            answer = await self.supervisor.ref("simulator", order.name).ask(order.message, order.deadline_s)
        except (TimeoutError, ConnectionError) as error:
            demand(not self.scenario.is_calm, f"{type(order.message).__name__} got no answer: {error!r}")
            return
        demand(isinstance(answer, Done | Refused), f"{type(order.message).__name__} was answered by {answer}")

    def _flush(self) -> None:
        self.supervisor.ref("simulator", CACHE).tell_control(FlushCache())

    def _on_stray_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error in a callback, such as a plan that no executor can run, is nobody's to catch."""
        error = context.get("exception")
        self.inspector.report(f"{type(error).__name__}: {error}" if error else str(context["message"]))

    def _describe(self) -> str:
        waiting = {name: mailbox.senders() for name, mailbox in self.supervisor._mailboxes.items() if len(mailbox)}
        return f"at {self.loop.time():.3f} s; mailboxes: {waiting}; {self.inspector.leftovers()}"


def simulate(seed: int) -> Result:
    return _simulate(Choices(seed))


def replay(path: Path) -> tuple[Result, str | None]:
    """Run a saved journal again. Returns how the new run differs from it, or None if it is the same. Raises `OSError`."""
    recorded = read(path)
    (seed,) = _of_kind(recorded, "seed")
    choices = Choices.replay(
        seed, [(label, num_options, choice) for label, num_options, choice in _of_kind(recorded, "choice")]
    )
    result = _simulate(choices)
    lines = path.read_text(encoding="utf-8").splitlines()
    return result, choices.divergence or _first_difference(lines, result.journal.lines)


def _first_difference(old: list[str], new: list[str]) -> str | None:
    for number, (old_line, new_line) in enumerate(zip_longest(old, new), 1):
        if old_line != new_line:
            return f"line {number} was {old_line} and is {new_line}"
    return None


def _of_kind(lines: list[tuple[str, Any]], wanted: str) -> list[Any]:
    return [value for kind, value in lines if kind == wanted]


def _simulate(choices: Choices) -> Result:
    with _silence():
        theatre = Theatre(choices)
        problem = None
        try:
            run(theatre.loop, theatre.play())
        except FAILURES as error:
            problem = f"{type(error).__name__}: {error}"
    return Result(choices.seed, problem, theatre.journal, theatre.num_deliveries, theatre.loop.time())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The server's log is about crashes that are meant to be."""
    runtime_log = logging.getLogger("runtime")
    level = runtime_log.level
    runtime_log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        runtime_log.setLevel(level)
