"""An ask whose answer comes later: other messages are handled meanwhile, and a crash or a stop answers it with an error."""

from __future__ import annotations

import asyncio

import pytest

from runtime.actors.actor import Actor, receives
from runtime.actors.supervisor import Group, Supervisor
from tests.actors.conftest import Asked, HandClock, Said


class Oracle(Actor):
    """Answers what it was asked when it is told the answer."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[str]] = []

    @receives(Asked)
    async def asked(self, message: Asked) -> asyncio.Future[str]:
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    @receives(Said)
    async def said(self, message: Said) -> None:
        if message.text == "crash":
            raise RuntimeError("boom")
        for answer in self.answers:
            if message.text == "give up":
                answer.cancel()
            else:
                answer.set_result(message.text)


async def asked(*texts: str, deadline_s: float = 5.0) -> object:
    """Ask, tell `texts`, and return the answer."""
    supervisor = Supervisor(HandClock())
    supervisor.add(Group("oracle", {"oracle": Oracle}))
    await supervisor.start()
    ref = supervisor.ref("test", "oracle")
    asking = asyncio.ensure_future(ref.ask(Asked("what"), deadline_s))
    await asyncio.sleep(0)
    for text in texts:
        ref.tell(Said(text))
    if not texts:
        for _ in range(5):
            await asyncio.sleep(0)
        await supervisor.stop()
    try:
        return await asking
    finally:
        await supervisor.stop()


def test_the_answer_comes_when_it_is_there() -> None:
    assert asyncio.run(asked("it")) == "it"


@pytest.mark.parametrize("texts", [(), ("crash",), ("give up",)], ids=["stop", "crash", "cancelled"])
def test_an_answer_that_will_not_come_is_an_error(texts: tuple[str, ...]) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(asked(*texts))


def test_a_late_answer_is_nobodys() -> None:
    async def run() -> None:
        supervisor = Supervisor(HandClock())
        supervisor.add(Group("oracle", {"oracle": Oracle}))
        await supervisor.start()
        ref = supervisor.ref("test", "oracle")
        with pytest.raises(TimeoutError):
            await ref.ask(Asked("what"), 0.0)
        ref.tell(Said("it"))
        asking = asyncio.ensure_future(ref.ask(Asked("again"), 5.0))
        await asyncio.sleep(0)
        ref.tell(Said("crash"))
        with pytest.raises(ConnectionError):
            await asking
        await supervisor.stop()

    asyncio.run(run())
