from __future__ import annotations

import asyncio

import pytest

from runtime.actors.mailbox import Envelope, Mailbox, MailboxFull
from tests.actors.conftest import Said


def said(*texts: str, sender: str = "a") -> list[Envelope]:
    return [Envelope(sender, Said(text)) for text in texts]


def texts(envelopes: list[Envelope]) -> list[str]:
    return [envelope.message.text for envelope in envelopes]


def test_one_drain_hands_over_everything_in_order_and_control_first() -> None:
    mailbox = Mailbox("echo")
    for envelope in said("one", "two", "three"):
        mailbox.put(envelope)
    mailbox.put_control(Envelope("supervisor", Said("stop")))
    assert len(mailbox) == 4
    assert texts(asyncio.run(mailbox.drain())) == ["stop", "one", "two", "three"]
    assert len(mailbox) == 0


def test_drain_waits_until_something_comes() -> None:
    async def run() -> list[str]:
        mailbox = Mailbox("echo")
        drained = asyncio.create_task(mailbox.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        mailbox.put(said("late")[0])
        return texts(await drained)

    assert asyncio.run(run()) == ["late"]


def test_a_full_data_lane_refuses_and_still_takes_control() -> None:
    mailbox = Mailbox("echo", capacity=2)
    for envelope in said("one", "two"):
        mailbox.put(envelope)
    with pytest.raises(MailboxFull, match="echo is full"):
        mailbox.put(said("three")[0])
    mailbox.put_control(Envelope("supervisor", Said("stop")))
    assert texts(mailbox.clear()) == ["stop", "one", "two"]


def test_put_back_returns_each_envelope_to_the_front_of_its_lane() -> None:
    async def run() -> list[str]:
        mailbox = Mailbox("echo")
        for envelope in said("one", "two"):
            mailbox.put(envelope)
        mailbox.put_control(Envelope("supervisor", Said("probe")))
        batch = await mailbox.drain()
        mailbox.put(said("three")[0])
        mailbox.put_control(Envelope("supervisor", Said("stop")))
        mailbox.put_back(batch)
        return texts(await mailbox.drain())

    assert asyncio.run(run()) == ["probe", "stop", "one", "two", "three"]


def test_put_back_wakes_whoever_waits() -> None:
    async def run() -> list[str]:
        mailbox = Mailbox("echo")
        drained = asyncio.create_task(mailbox.drain())
        await asyncio.sleep(0)
        mailbox.put_back(said("again"))
        return texts(await drained)

    assert asyncio.run(run()) == ["again"]


def test_a_cancelled_drain_loses_nothing() -> None:
    async def run() -> list[str]:
        mailbox = Mailbox("echo")
        drained = asyncio.create_task(mailbox.drain())
        await asyncio.sleep(0)
        mailbox.put(said("kept")[0])
        drained.cancel()
        await asyncio.wait([drained])
        assert drained.cancelled()
        return texts(await mailbox.drain())

    assert asyncio.run(run()) == ["kept"]
