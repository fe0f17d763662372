from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from runtime.actors.actor import Actor, receives
from runtime.actors.supervisor import Crash, Escalated, Group, Supervisor
from runtime.errors import DeviceLost
from tests.actors.conftest import Asked, HandClock, Said


class Player(Actor):
    """Writes down what happens to it; some texts make it fail."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def started(self) -> None:
        self.log.append(f"{self.name} started")

    async def stopped(self) -> None:
        self.log.append(f"{self.name} stopped")

    @receives(Said)
    async def said(self, message: Said) -> None:
        self.log.append(f"{self.name} {message.text}")
        if message.text == "crash":
            raise RuntimeError("boom")
        if message.text == "hang":
            await asyncio.get_running_loop().create_future()
        if message.text == "await a cancelled future":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    @receives(Asked)
    async def asked(self, message: Asked) -> str:
        return f"{self.name} heard {message.text}"


class BatchPlayer(Player):
    """Fails at the end of a batch that holds `late crash`."""

    is_broken = False

    async def said(self, message: Said) -> None:
        await super().said(message)
        self.is_broken |= message.text == "late crash"

    async def after_batch(self) -> None:
        self.log.append(f"{self.name} after batch")
        if self.is_broken:
            raise RuntimeError("late boom")


class Stage:
    """A supervisor with its log and the crashes that it reported."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.crashes: list[Crash] = []
        self.clock = HandClock()
        self.supervisor = Supervisor(self.clock)

    def on_crash(self, crash: Crash) -> None:
        self.log.append(f"{crash.name} mourned")
        self.crashes.append(crash)

    def add(self, *names: str, kind: type[Player] = Player) -> None:
        factories = {name: lambda name=name: kind(name, self.log) for name in names}
        self.supervisor.add(Group(" and ".join(names), factories, self.on_crash))

    def tell(self, name: str, *texts: str) -> None:
        for text in texts:
            self.supervisor.ref("test", name).tell(Said(text))

    async def until(self, entry: str) -> None:
        for _ in range(60):
            if entry in self.log:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{entry!r} did not happen")

    async def settle(self) -> None:
        """Let everything happen that can happen without time."""
        for _ in range(60):
            await asyncio.sleep(0)

    def play(self, scene: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await self.supervisor.start()
            await self.settle()
            self.log.clear()
            await scene()
            await self.supervisor.stop()
            assert asyncio.all_tasks() == {asyncio.current_task()}, "the supervisor left a task behind"

        asyncio.run(run())


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_actors_start_in_order_and_stop_in_reverse(stage: Stage) -> None:
    async def run() -> None:
        await stage.supervisor.start()
        await stage.supervisor.stop()
        await stage.supervisor.stop()

    stage.add("a")
    stage.add("b", "c")
    asyncio.run(run())
    assert stage.log == ["a started", "b started", "c started", "c stopped", "b stopped", "a stopped"]


def test_a_crash_loses_one_message_and_keeps_the_rest_in_order(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "one", "crash", "two", "three")
        await stage.settle()

    stage.add("a")
    stage.play(scene)
    assert stage.log == ["a one", "a crash", "a mourned", "a started", "a two", "a three", "a stopped"]
    assert stage.crashes[0].lost == (Said("crash"),)
    assert stage.supervisor.num_restarts == 1


def test_an_actor_that_works_per_batch_loses_what_it_had_begun(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "one", "crash", "two")
        await stage.settle()
        stage.tell("a", "three", "late crash")
        await stage.settle()

    stage.add("a", kind=BatchPlayer)
    stage.play(scene)
    assert [crash.lost for crash in stage.crashes] == [
        (Said("one"), Said("crash")),
        (Said("three"), Said("late crash")),
    ]
    assert "a two" in stage.log


def test_a_group_restarts_together_with_empty_mailboxes(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "hang", "never seen")
        await stage.settle()
        stage.tell("a", "neither")
        stage.tell("b", "crash", "nor this")
        await stage.settle()
        stage.tell("a", "again")
        await stage.settle()

    stage.add("a", "b")
    stage.play(scene)
    assert stage.log == ["a hang", "b crash", "b mourned", "a started", "b started", "a again", "b stopped", "a stopped"]
    assert sorted(message.text for message in stage.crashes[0].lost) == ["crash", "neither", "never seen", "nor this"]


def test_two_members_that_crash_at_once_cause_one_restart(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "crash")
        stage.tell("b", "crash")
        await stage.settle()

    stage.add("a", "b")
    stage.play(scene)
    assert stage.supervisor.num_restarts == 1
    assert stage.crashes[0].lost == (Said("crash"), Said("crash"))
    assert stage.log.count("a started") == stage.log.count("b started") == 1


def test_a_crash_while_the_group_restarts_restarts_it_again(stage: Stage) -> None:
    class SlowStarter(Player):
        async def started(self) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await super().started()

    async def scene() -> None:
        stage.tell("a", "crash")
        await stage.until("a started")
        assert "b started" not in stage.log
        stage.tell("a", "crash")
        await stage.settle()

    stage.add("a", "b", kind=SlowStarter)
    stage.play(scene)
    assert stage.supervisor.num_restarts == 2
    assert stage.log[:6] == ["a crash", "a mourned", "a started", "a crash", "b started", "a mourned"], "two restarts at once"
    assert stage.log[6:] == ["a started", "b started", "b stopped", "a stopped"]


def test_what_on_crash_sends_comes_before_what_the_new_members_send(stage: Stage) -> None:
    heard: list[str] = []

    class Greeter(Player):
        async def started(self) -> None:
            stage.supervisor.ref("a", "listener").tell(Said("new"))

    class Listener(Player):
        async def said(self, message: Said) -> None:
            heard.append(message.text)

    def on_crash(crash: Crash) -> None:
        stage.supervisor.ref("a", "listener").tell(Said("lost"))

    async def scene() -> None:
        heard.clear()
        stage.tell("a", "crash")
        await stage.settle()

    stage.supervisor.add(Group("a", {"a": lambda: Greeter("a", stage.log)}, on_crash))
    stage.add("listener", kind=Listener)
    stage.play(scene)
    assert heard == ["lost", "new"]


@pytest.mark.parametrize("names", [("a",), ("a", "b")], ids=["edge", "group"])
def test_no_ask_waits_for_its_deadline_after_a_crash(stage: Stage, names: tuple[str, ...]) -> None:
    async def scene() -> None:
        ref = stage.supervisor.ref("test", "a")
        ref.tell_control(Said("crash"))
        ask = asyncio.create_task(ref.ask(Asked("me"), 1e9))
        await stage.settle()
        if len(names) == 1:  # the mailbox of an edge actor outlives it
            assert await ask == "a heard me"
        else:
            with pytest.raises(ConnectionError, match="a crashed"):
                await ask

    stage.add(*names)
    stage.play(scene)


def test_stop_fails_the_asks_that_nobody_will_answer(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "hang")
        await stage.settle()
        ask = asyncio.create_task(stage.supervisor.ref("test", "a").ask(Asked("me"), 1e9))
        await stage.settle()
        await stage.supervisor.stop()
        with pytest.raises(ConnectionError, match="a has stopped"):
            await ask

    stage.add("a")
    stage.play(scene)


def test_too_many_crashes_escalate(stage: Stage) -> None:
    async def scene() -> None:
        for _ in range(4):
            stage.tell("a", "crash")
            await stage.settle()
        with pytest.raises(Escalated, match="a crashed 4 times: boom"):
            await stage.supervisor.wait()

    stage.add("a")
    stage.play(scene)
    assert stage.supervisor.num_restarts == 3
    assert len(stage.crashes) == 4, "the requests of the last crash must be ended too"
    assert "a stopped" not in stage.log, "a crashed actor is not stopped"


def test_crashes_far_apart_do_not_escalate(stage: Stage) -> None:
    async def scene() -> None:
        for _ in range(8):
            stage.clock.now_s += 25.0
            stage.tell("a", "crash")
            await stage.settle()

    stage.add("a")
    stage.play(scene)
    assert stage.supervisor.num_restarts == 8


def test_a_member_that_can_not_start_again_escalates(stage: Stage) -> None:
    class OnceOnly(Player):
        num_starts = 0

        async def started(self) -> None:
            OnceOnly.num_starts += 1
            if OnceOnly.num_starts > 1:
                raise OSError("no memory")

    async def scene() -> None:
        stage.tell("a", "crash")
        await stage.settle()
        with pytest.raises(Escalated, match="a crashed 4 times: no memory"):
            await stage.supervisor.wait()

    stage.add("a", kind=OnceOnly)
    stage.play(scene)


def test_an_error_that_no_restart_can_mend_is_raised_at_once(stage: Stage) -> None:
    class OnDevice(Player):
        async def started(self) -> None:
            if self.log:
                raise DeviceLost("the GPU does not compute any more")

    async def scene() -> None:
        stage.tell("a", "crash")
        await stage.settle()
        with pytest.raises(DeviceLost, match="the GPU"):
            await stage.supervisor.wait()

    stage.add("a", kind=OnDevice)
    stage.play(scene)
    assert stage.supervisor.num_restarts == 1
    assert len(stage.crashes) == 2


def test_a_failed_start_stops_those_that_had_started(stage: Stage) -> None:
    class Broken(Player):
        async def started(self) -> None:
            raise OSError("port is busy")

    async def run() -> None:
        with pytest.raises(OSError, match="port is busy"):
            await stage.supervisor.start()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    stage.add("a")
    stage.add("b", kind=Broken)
    asyncio.run(run())
    assert stage.log == ["a started", "a stopped"]


def test_stop_during_a_restart_starts_nothing(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "crash")
        await stage.until("a mourned")

    class SlowStarter(Player):
        async def started(self) -> None:
            if self.log:
                await asyncio.get_running_loop().create_future()

    stage.add("a", "b", kind=SlowStarter)
    stage.play(scene)
    assert stage.log == ["a crash", "a mourned"]


def test_a_crash_while_stopping_restarts_nothing(stage: Stage) -> None:
    class Stubborn(Player):
        async def said(self, message: Said) -> None:
            try:
                await super().said(message)
            except asyncio.CancelledError:
                raise OSError("not now") from None

    async def scene() -> None:
        stage.tell("a", "hang")
        await stage.settle()
        await stage.supervisor.stop()
        await stage.settle()

    stage.add("a", kind=Stubborn)
    stage.play(scene)
    assert stage.log == ["a hang"]


def test_an_actor_that_fails_to_stop_does_not_keep_the_others(stage: Stage) -> None:
    class Clumsy(Player):
        async def stopped(self) -> None:
            raise OSError("disk full")

    async def scene() -> None: ...

    stage.add("a")
    stage.add("b", kind=Clumsy)
    stage.play(scene)
    assert stage.log == ["a stopped"]


def test_a_cancellation_that_nobody_asked_for_is_a_crash(stage: Stage) -> None:
    async def scene() -> None:
        stage.tell("a", "await a cancelled future", "two")
        await stage.settle()

    stage.add("a")
    stage.play(scene)
    assert stage.log == ["a await a cancelled future", "a mourned", "a started", "a two", "a stopped"]


def test_an_on_crash_that_fails_escalates(stage: Stage) -> None:
    def on_crash(crash: Crash) -> None:
        raise ValueError("mailbox full")

    async def scene() -> None:
        stage.tell("a", "crash")
        await stage.settle()
        with pytest.raises(Escalated, match="could not be ended: mailbox full"):
            await stage.supervisor.wait()

    stage.supervisor.add(Group("a", {"a": lambda: Player("a", stage.log)}, on_crash))
    stage.play(scene)


def test_observe_sees_each_envelope_before_it_is_handled() -> None:
    log: list[str] = []

    async def run() -> None:
        supervisor = Supervisor(HandClock(), observe=lambda name, envelope: log.append(f"{envelope.sender} to {name}"))
        supervisor.add(Group("a", {"a": lambda: Player("a", log)}))
        await supervisor.start()
        supervisor.ref("test", "a").tell(Said("one"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await supervisor.stop()

    asyncio.run(run())
    assert log == ["a started", "test to a", "a one", "a stopped"]
