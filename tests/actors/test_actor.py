from __future__ import annotations

import asyncio

import pytest

from runtime.actors.actor import Actor, Ref, receives
from runtime.actors.mailbox import Envelope, Mailbox
from tests.actors.conftest import Asked, Said


class Parrot(Actor):
    def __init__(self) -> None:
        self.heard: list[str] = []

    @receives(Said)
    async def said(self, message: Said) -> None:
        self.heard.append(message.text)

    @receives(Asked)
    async def asked(self, message: Asked) -> str:
        if message.text == "broken":
            raise ValueError("no answer")
        return message.text * 2


class LoudParrot(Parrot):
    async def said(self, message: Said) -> None:
        self.heard.append(message.text.upper())


async def handle_next(parrot: Parrot, mailbox: Mailbox) -> None:
    for envelope in await mailbox.drain():
        await parrot.handle(envelope)


def test_each_message_type_finds_its_method() -> None:
    parrot = Parrot()
    asyncio.run(parrot.handle(Envelope("a", Said("hello"))))
    assert parrot.heard == ["hello"]


def test_an_overriding_method_keeps_the_message_type() -> None:
    parrot = LoudParrot()
    asyncio.run(parrot.handle(Envelope("a", Said("hello"))))
    assert parrot.heard == ["HELLO"]


def test_a_message_without_a_handler_is_a_type_error() -> None:
    class Deaf(Actor):
        """Receives nothing."""

    with pytest.raises(TypeError, match="Deaf does not receive Said"):
        asyncio.run(Deaf().handle(Envelope("a", Said("hello"))))


def test_two_handlers_for_one_type_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="two handlers for Said"):

        class Confused(Actor):
            @receives(Said)
            async def first(self, message: Said) -> None: ...

            @receives(Said)
            async def second(self, message: Said) -> None: ...


def test_tell_names_the_sender() -> None:
    mailbox = Mailbox("echo")
    ref = Ref("alice", mailbox)
    ref.tell(Said("hello"))
    ref.tell_control(Said("stop"))
    assert ref.receiver == "echo"
    assert mailbox.clear() == [Envelope("alice", Said("stop"), None, True), Envelope("alice", Said("hello"))]


def test_ask_gets_what_the_handler_returns() -> None:
    async def run() -> str:
        mailbox = Mailbox("echo")
        _, answer = await asyncio.gather(handle_next(Parrot(), mailbox), Ref("a", mailbox).ask(Asked("ab"), 1.0))
        return answer

    assert asyncio.run(run()) == "abab"


def test_ask_gets_an_error_when_the_handler_raises() -> None:
    async def run() -> None:
        mailbox = Mailbox("echo")
        ask = asyncio.create_task(Ref("a", mailbox).ask(Asked("broken"), 1.0))
        with pytest.raises(ValueError, match="no answer"):
            await handle_next(Parrot(), mailbox)
        with pytest.raises(ConnectionError, match="no answer"):
            await ask

    asyncio.run(run())


def test_an_ask_past_its_deadline_may_still_be_handled() -> None:
    async def run() -> None:
        mailbox = Mailbox("echo")
        with pytest.raises(TimeoutError):
            await Ref("a", mailbox).ask(Asked("ab"), 0.0)
        await handle_next(Parrot(), mailbox)

    asyncio.run(run())
