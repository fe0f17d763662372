"""The simulator's own parts: virtual time, choices, and mailboxes that reorder what may be reordered."""

from __future__ import annotations

import asyncio
import time

import pytest

from runtime.actors.mailbox import Envelope, MailboxFull
from runtime.messages import Message
from tests.sim.choices import Choices, Decision
from tests.sim.loop import SimulationDeadlock, SimulationTooLong, VirtualClock, VirtualLoop, run
from tests.sim.mailbox import ShuffledMailbox, Weather


class Said(Message, frozen=True):
    text: str


ROUGH = Weather(late_probability=0.5, most_late_s=0.1)


def test_time_passes_only_in_jumps() -> None:
    async def main() -> list[float]:
        clock = VirtualClock(asyncio.get_running_loop())
        times = [clock.monotonic()]
        for seconds in (3600.0, 0.0, 1e-6):
            await asyncio.sleep(seconds)
            times.append(clock.monotonic())
        return times

    begun = time.monotonic()
    assert run(VirtualLoop(), main()) == pytest.approx([0.0, 3600.0, 3600.0, 3600.000001])
    assert time.monotonic() - begun < 60


def test_a_wait_that_can_not_end_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    loop.describe = lambda: "everybody waits"
    with pytest.raises(SimulationDeadlock, match="everybody waits"):
        run(loop, main())


def test_a_run_past_the_horizon_is_stopped() -> None:
    async def main() -> None:
        for _ in range(1000):
            await asyncio.sleep(1.0)

    with pytest.raises(SimulationTooLong):
        run(VirtualLoop(horizon_s=10.0), main())


def test_an_executor_has_no_thread() -> None:
    async def main() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, len, "four")

    assert run(VirtualLoop(), main()) == 4


def test_choices_are_recorded_and_replayed() -> None:
    def draw(choices: Choices) -> list[object]:
        return [
            choices.between(3, 9, "size"),
            choices.chance(0.5, "crash"),
            choices.pick("abc", "letter"),
            choices.shuffled([1, 2, 3, 4], "order"),
            choices.seconds(0.5, "delay"),
        ]

    decisions: list[Decision] = []
    drawn = draw(Choices(7, decisions.append))
    assert draw(Choices.replay(7, decisions)) == drawn
    assert draw(Choices(7)) == drawn
    assert draw(Choices(8)) != drawn


def test_a_replay_notices_another_question() -> None:
    decisions: list[Decision] = []
    Choices(1, decisions.append).below(3, "size")
    replay = Choices.replay(1, decisions)
    assert replay.below(2, "crash") == 0
    assert replay.divergence == "crash of 2 was asked, the record has size of 3"
    empty = Choices.replay(1, [])
    assert empty.below(2, "crash") == 0
    assert empty.divergence == "crash of 2 was asked, the record has the end of the record of 0"


async def drained(mailbox: ShuffledMailbox, num_messages: int) -> list[str]:
    texts: list[str] = []
    while len(texts) < num_messages:
        texts += [envelope.message.text for envelope in await mailbox.drain()]
    return texts


@pytest.mark.parametrize("seed", range(20))
def test_shuffling_keeps_order_per_sender_and_loses_nothing(seed: int) -> None:
    async def main() -> list[str]:
        mailbox = ShuffledMailbox("x", Choices(seed), ROUGH, capacity=100)
        for number in range(10):
            for sender in "abc":
                mailbox.put(Envelope(sender, Said(f"{sender}{number}")))
        return await drained(mailbox, 30)

    texts = run(VirtualLoop(), main())
    for sender in "abc":
        assert [text for text in texts if text[0] == sender] == [f"{sender}{number}" for number in range(10)]


def test_seeds_differ_in_order_and_control_is_first_in_all() -> None:
    async def main(seed: int) -> tuple[str, ...]:
        mailbox = ShuffledMailbox("x", Choices(seed), Weather(), capacity=100)
        for sender in "abcd":
            mailbox.put(Envelope(sender, Said(sender)))
        mailbox.put_control(Envelope("e", Said("stop")))
        return tuple(await drained(mailbox, 5))

    orders = {run(VirtualLoop(), main(seed)) for seed in range(20)}
    assert len(orders) > 5
    assert {order[0] for order in orders} == {"stop"}


def test_a_late_message_comes_after_its_delay() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        mailbox = ShuffledMailbox("x", Choices(1), Weather(late_probability=1.0, most_late_s=5.0), capacity=1)
        mailbox.put(Envelope("a", Said("late")))
        with pytest.raises(MailboxFull):
            mailbox.put(Envelope("b", Said("too many")))
        assert await drained(mailbox, 1) == ["late"]
        return loop.time()

    assert 0.0 < run(VirtualLoop(), main()) < 5.0


def test_what_was_put_back_is_first_of_its_sender() -> None:
    async def main() -> list[str]:
        mailbox = ShuffledMailbox("x", Choices(1), Weather(is_shuffled=False), capacity=10)
        for text in ("one", "two"):
            mailbox.put(Envelope("a", Said(text)))
        batch = await mailbox.drain()
        mailbox.put(Envelope("a", Said("three")))
        mailbox.put_back(batch)
        return await drained(mailbox, 3)

    assert run(VirtualLoop(), main()) == ["one", "two", "three"]
