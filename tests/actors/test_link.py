"""Two ends of a link over a real loopback connection. Time moves by hand: a heartbeat is due when the test says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.actors.link import HEARTBEAT_S, LENGTH, SILENCE_S, Link
from runtime.messages import Message
from tests.actors.conftest import HandClock


class Ordered(Message, frozen=True):
    number: int
    data: bytes


class Answered(Message, frozen=True):
    text: str


Frame = Ordered | Answered


class Pulse:
    """The sleep of a link: it lasts until the test moves the clock."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._wakes: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        self._wakes.append(wake)
        await wake.wait()

    async def beat(self, seconds: float = HEARTBEAT_S) -> None:
        """Let time pass and every link that sleeps do what is due; what they sent has arrived then."""
        self._clock.now_s += seconds
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake.set()
        await settle()


class Records:
    """What one end was told."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.losses: list[str] = []
        self.changed = asyncio.Event()

    def message(self, message: Any) -> None:
        self.messages.append(message)
        self.changed.set()

    def lost(self, reason: str) -> None:
        self.losses.append(reason)
        self.changed.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 30)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Streams, Streams]]:
    """Both ends of one, over the loopback interface."""
    accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    near = await asyncio.open_connection(*server.sockets[0].getsockname())
    far = await accepted
    try:
        yield near, far
    finally:
        for _, writer in (near, far):
            writer.close()
        server.close()
        await settle()


async def settle() -> None:
    """Let the loop read what has arrived; loopback delivers at once."""
    for _ in range(10):
        await asyncio.sleep(0)


class Ends:
    """One end is a link under test; the other a bare connection, or a link too."""

    def __init__(self, near: Streams, far: Streams) -> None:
        self.clock = HandClock()
        self.pulse = Pulse(self.clock)
        self.near, self.far = near, far
        self.heard = Records()
        self.link = self.link_on(near, self.heard)

    def link_on(self, streams: Streams, records: Records, **options: Any) -> Link[Frame]:
        return Link(
            *streams,
            Frame,
            on_message=records.message,
            on_lost=records.lost,
            clock=self.clock,
            sleep=self.pulse.sleep,
            **options,
        )


@asynccontextmanager
async def ends(**options: Any) -> AsyncIterator[Ends]:
    async with connection() as (near, far):
        both = Ends(near, far)
        if options:
            both.link = both.link_on(near, both.heard, **options)
        both.link.start()
        await settle()
        yield both
        await both.link.close()


frames = st.one_of(
    st.builds(Ordered, st.integers(-(2**63), 2**63 - 1), st.binary(max_size=2000)),
    st.builds(Answered, st.text(max_size=200)),
)


@given(st.lists(frames, max_size=20), st.data())
def test_messages_arrive_as_they_were_sent_however_the_bytes_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    bodies = [msgspec.msgpack.encode(frame) for frame in sent]
    stream = b"".join(LENGTH.pack(len(body)) + body for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))

    async def run() -> None:
        async with ends() as both:
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                both.far[1].write(stream[start:end])
                await settle()
            await both.heard.until(lambda: len(both.heard.messages) == len(sent))
            assert both.heard.messages == sent
            assert both.heard.losses == []

    asyncio.run(run())


def test_two_links_talk() -> None:
    async def run() -> None:
        async with ends() as both:
            other = Records()
            peer = both.link_on(both.far, other)
            peer.start()
            sent = [Ordered(number, bytes([number])) for number in range(100)]
            for message in sent:
                both.link.send(message)
            peer.send(Answered("yes"))
            await other.until(lambda: len(other.messages) == 100)
            await both.heard.until(lambda: bool(both.heard.messages))
            assert other.messages == sent
            assert both.heard.messages == [Answered("yes")]
            await peer.close()
            assert other.losses == []

    asyncio.run(run())


def test_heartbeats_keep_an_idle_link() -> None:
    async def run() -> None:
        async with ends() as both:
            other = Records()
            peer = both.link_on(both.far, other)
            peer.start()
            await settle()
            for _ in range(10 * int(SILENCE_S)):
                await both.pulse.beat()
            assert both.heard.losses == other.losses == []
            await peer.close()

    asyncio.run(run())


def test_a_silent_peer_is_lost_in_time() -> None:
    async def run() -> None:
        async with ends() as both:
            while not both.heard.losses:
                await both.pulse.beat()
            assert both.clock.now_s <= 10
            assert both.clock.now_s >= SILENCE_S
            await both.pulse.beat()
            assert both.heard.losses == ["has said nothing for 6 s"]

    asyncio.run(run())


def test_a_peer_that_speaks_at_last_is_not_lost() -> None:
    async def run() -> None:
        async with ends() as both:
            for _ in range(5):
                for _ in range(int(SILENCE_S) - 1):
                    await both.pulse.beat()
                both.far[1].write(LENGTH.pack(0))
                await settle()
            assert both.heard.losses == []

    asyncio.run(run())


def test_the_time_that_this_process_was_stopped_is_not_held_against_the_peer() -> None:
    async def run() -> None:
        async with ends() as both:
            await both.pulse.beat()
            await both.pulse.beat(3600)
            assert both.heard.losses == []
            while not both.heard.losses:
                await both.pulse.beat()
            assert both.clock.now_s <= 3600 + 10

    asyncio.run(run())


def after(data: bytes, *, closes: bool = False, **options: Any) -> Records:
    """What a link was told after the peer has sent `data`, once it is lost."""

    async def run() -> Records:
        async with ends(**options) as both:
            both.far[1].write(data)
            if closes:
                both.far[1].close()
            await both.heard.until(lambda: bool(both.heard.losses))
            assert not both.link.is_open
            both.link.send(Answered("too late"))
            await both.pulse.beat()
            await both.pulse.beat()
        return both.heard

    return asyncio.run(run())


GOOD = msgspec.msgpack.encode(Answered("good"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed the connection"),
        (LENGTH.pack(5)[:3], "closed the connection in the middle"),
        (LENGTH.pack(len(GOOD)) + GOOD[:-1], "closed the connection in the middle"),
    ],
    ids=["at once", "in a length", "in a body"],
)
def test_a_peer_that_closes_is_lost_once(data: bytes, reason: str) -> None:
    heard = after(data, closes=True)
    assert len(heard.losses) == 1
    assert heard.losses[0].startswith(reason)
    assert heard.messages == []


@pytest.mark.parametrize(
    "body",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        msgspec.msgpack.encode({"type": "Unknown"}),
        msgspec.msgpack.encode({"type": "Ordered", "number": "one", "data": b""}),
        GOOD + b"\0",
        b"\x91" * 100_000 + b"\0",
    ],
    ids=["text", "an unknown tag", "a wrong type", "more than a message", "depth"],
)
def test_a_peer_that_sends_garbage_is_lost_once_and_what_follows_is_not_read(body: bytes) -> None:
    heard = after(LENGTH.pack(len(GOOD)) + GOOD + LENGTH.pack(len(body)) + body + LENGTH.pack(len(GOOD)) + GOOD)
    assert len(heard.losses) == 1
    assert heard.losses[0].startswith("sent what is no message")
    assert heard.messages == [Answered("good")]


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    heard = after(struct.pack("<I", 1001), max_frame_bytes=1000)
    assert len(heard.losses) == 1
    assert "1001 bytes" in heard.losses[0]


def test_a_message_that_is_too_long_is_not_sent() -> None:
    async def run() -> None:
        async with ends(max_frame_bytes=100) as both:
            with pytest.raises(ValueError, match="longer than 100"):
                both.link.send(Ordered(1, bytes(200)))
            assert both.link.is_open

    asyncio.run(run())


def test_a_receiver_that_fails_loses_the_link_and_does_not_stay_silent() -> None:
    async def run() -> None:
        async with ends() as both:

            def refuse(message: Frame) -> None:
                raise KeyError("no room")

            both.link._on_message = refuse
            both.far[1].write(LENGTH.pack(len(GOOD)) + GOOD)
            await both.heard.until(lambda: bool(both.heard.losses))
            assert "no room" in both.heard.losses[0]

    asyncio.run(run())


def test_a_peer_that_does_not_read_is_lost_and_not_remembered_without_end() -> None:
    async def run() -> None:
        async with ends(max_unread_bytes=2**20) as both:
            both.far[0]._transport.pause_reading()  # type: ignore[attr-defined]
            block = Ordered(0, bytes(2**18))
            for _ in range(10_000):
                both.link.send(block)
                await asyncio.sleep(0)
                if both.heard.losses:
                    break
            assert len(both.heard.losses) == 1
            assert "does not read" in both.heard.losses[0]

    asyncio.run(run())


def test_a_reset_connection_is_a_loss() -> None:
    async def run() -> None:
        async with ends() as both:
            sock = both.far[1].get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            both.far[1].transport.abort()
            await both.heard.until(lambda: bool(both.heard.losses))
            assert "the connection" in both.heard.losses[0]

    asyncio.run(run())


def test_closing_sends_what_waits_and_loses_nothing() -> None:
    async def run() -> None:
        async with ends() as both:
            other = Records()
            peer = both.link_on(both.far, other)
            peer.start()
            last = Ordered(0, bytes(8 * 2**20))  # more than the system takes at once
            both.link.send(last)
            await both.link.close()
            await both.link.close()
            await other.until(lambda: bool(other.losses))
            assert other.messages == [last]
            assert other.losses == ["closed the connection"]
            assert both.heard.losses == []
            await peer.close()

    asyncio.run(run())
