"""Who is let in: both sides prove that they know the secret, and nobody else gets anything out of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from runtime.actors.handshake import GREETING_BYTES, NONCE_BYTES, PROOF_BYTES, Credentials, HandshakeFailed, accept, introduce

Dialogue = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]

SECRET = b"only the ranks know this"


def credentials(secret: bytes = SECRET, protocol: str = "test/1", numbers: Iterator[int] | None = None) -> Credentials:
    numbers = numbers or count(1)
    return Credentials(protocol, secret, lambda: next(numbers).to_bytes(NONCE_BYTES, "big"))


def meet(listener: Dialogue, caller: Dialogue) -> tuple[object, object]:
    """What came of both sides: a result or a `HandshakeFailed`."""

    async def run() -> tuple[object, object]:
        heard: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await outcome(listener, reader, writer))

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            called = await outcome(caller, reader, writer)
            return await heard, called

    return asyncio.run(run())


async def outcome(side: Dialogue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    try:
        return await side(reader, writer)
    except HandshakeFailed as error:
        return error
    finally:
        writer.close()


def listens(own: Credentials, deadline_s: float = 30.0) -> Dialogue:
    return lambda reader, writer: accept(reader, writer, own, deadline_s)


def calls(own: Credentials, name: str = "3", deadline_s: float = 30.0) -> Dialogue:
    return lambda reader, writer: introduce(reader, writer, own, name, deadline_s)


def says(data: bytes) -> Dialogue:
    """A stranger, who reads all that he is given."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        writer.write_eof()
        return await reader.read()

    return say


def test_two_that_know_the_secret_meet() -> None:
    assert meet(listens(credentials()), calls(credentials(), "17")) == ("17", None)


def test_a_caller_with_another_secret_is_refused_and_learns_nothing() -> None:
    heard, called = meet(listens(credentials()), calls(credentials(b"a guess")))
    assert isinstance(heard, HandshakeFailed)
    assert "does not know the secret" in str(heard)
    assert isinstance(called, HandshakeFailed)
    assert "closed the connection" in str(called)


def test_a_listener_with_another_secret_is_found_out() -> None:
    """He lets anybody in, but can not prove himself."""

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(credentials().greeting + bytes(NONCE_BYTES))
        await reader.readexactly(GREETING_BYTES + NONCE_BYTES + 1 + 1 + PROOF_BYTES)
        writer.write(bytes(PROOF_BYTES))

    _, called = meet(pretend, calls(credentials()))
    assert isinstance(called, HandshakeFailed)
    assert "does not know the secret" in str(called)


def test_a_proof_can_not_be_sent_back_to_who_made_it() -> None:
    """A mirror with the caller's own nonce and proof does not pass for the listener."""

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(credentials().greeting + (1).to_bytes(NONCE_BYTES, "big"))
        answer = await reader.readexactly(GREETING_BYTES + NONCE_BYTES + 2 + PROOF_BYTES)
        writer.write(answer[-PROOF_BYTES:])

    _, called = meet(mirror, calls(credentials()))
    assert isinstance(called, HandshakeFailed)


def test_an_answer_can_not_be_played_again() -> None:
    recorded: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(credentials().greeting + (1).to_bytes(NONCE_BYTES, "big"))
        recorded.append(await reader.readexactly(GREETING_BYTES + NONCE_BYTES + 2 + PROOF_BYTES))

    meet(record, calls(credentials()))
    heard, _ = meet(listens(credentials(numbers=count(1))), says(recorded[0]))
    assert heard == "3"  # to the same nonce it is good, so that the next line tests what it says
    heard, _ = meet(listens(credentials(numbers=count(2))), says(recorded[0]))
    assert isinstance(heard, HandshakeFailed)


def test_another_version_is_told_from_another_secret() -> None:
    heard, called = meet(listens(credentials(protocol="test/2")), calls(credentials(protocol="test/1")))
    assert "speaks 'test/2' and not 'test/1'" in str(called)
    assert isinstance(heard, HandshakeFailed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(200),
        b"\x16\x03\x01" + bytes(500),
        credentials().greeting,
        credentials().greeting + bytes(NONCE_BYTES) + b"\xff" + bytes(300),
        credentials().greeting + bytes(NONCE_BYTES) + b"\x011" + bytes(PROOF_BYTES),
    ],
    ids=["nothing", "HTTP", "TLS", "a greeting", "a long name", "an empty proof"],
)
def test_a_stranger_is_refused_and_gets_no_proof(data: bytes) -> None:
    heard, got = meet(listens(credentials()), says(data))
    assert isinstance(heard, HandshakeFailed)
    assert got == credentials().greeting + (1).to_bytes(NONCE_BYTES, "big")


def test_a_stranger_that_says_nothing_is_not_waited_for() -> None:
    async def keep_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        return await reader.read()

    heard, _ = meet(listens(credentials(), deadline_s=0.01), keep_still)
    assert "did not introduce itself within 0.01 s" in str(heard)
    _, called = meet(keep_still, calls(credentials(), deadline_s=0.01))
    assert "did not introduce itself" in str(called)


def test_the_secret_does_not_travel() -> None:
    written: list[bytes] = []

    async def spy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(credentials().greeting + bytes(NONCE_BYTES))
        written.append(await reader.readexactly(GREETING_BYTES + NONCE_BYTES + 2 + PROOF_BYTES))

    meet(spy, calls(credentials()))
    assert SECRET not in written[0]
