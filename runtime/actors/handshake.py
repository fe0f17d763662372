"""How two processes make sure of each other before they talk: each proves that it knows a secret, and the secret never travels.

The one that listens greets with a nonce. The caller answers with a nonce of its own, its name, and an HMAC-SHA256 of both
nonces and the name; only then does the listener prove itself, so that a stranger learns nothing it could guess a secret by.
Roles are part of what is hashed: a proof can not be sent back to the one who made it.

    listener  greeting(32) nonce(32)                                     →
              ←  greeting(32) nonce(32) length(1) name(length) proof(32)    caller
    listener  proof(32)                                                  →
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import CallboardError

DEADLINE_S = 5.0
GREETING_BYTES = 32
NONCE_BYTES = 32
PROOF_BYTES = hashlib.sha256().digest_size


class HandshakeFailed(CallboardError):
    """The other side is not one of ours, or does not speak our version."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What both ends must have in common, and where nonces come from: `NONCE_BYTES` that never come again."""

    protocol: str
    """Name and version of what is spoken, at most 32 bytes."""
    secret: bytes
    new_nonce: Callable[[], bytes]

    @property
    def greeting(self) -> bytes:
        return self.protocol.encode().ljust(GREETING_BYTES, b"\0")

    def proof(self, role: bytes, nonces: bytes, name: bytes) -> bytes:
        return hmac.digest(self.secret, b"\0".join((role, self.greeting, nonces, name)), "sha256")


async def accept(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: Credentials, deadline_s: float = DEADLINE_S
) -> str:
    """The listener's part; returns the name of the caller. Raises `HandshakeFailed`; the connection is left to be closed."""
    try:
        async with asyncio.timeout(deadline_s):
            return await _accept(reader, writer, credentials)
    except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
        raise _broken(error, deadline_s) from None


async def introduce(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    credentials: Credentials,
    name: str,
    deadline_s: float = DEADLINE_S,
) -> None:
    """The caller's part. Raises `HandshakeFailed`; the connection is left to be closed."""
    try:
        async with asyncio.timeout(deadline_s):
            await _introduce(reader, writer, credentials, name.encode())
    except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
        raise _broken(error, deadline_s) from None


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: Credentials) -> str:
    own_nonce = credentials.new_nonce()
    writer.write(credentials.greeting + own_nonce)
    nonces = own_nonce + await _greeted(reader, credentials)
    (length,) = await reader.readexactly(1)
    name = await reader.readexactly(length)
    _check(await reader.readexactly(PROOF_BYTES), credentials.proof(b"caller", nonces, name))
    writer.write(credentials.proof(b"listener", nonces, name))
    return name.decode(errors="replace")


async def _introduce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: Credentials, name: bytes) -> None:
    their_nonce = await _greeted(reader, credentials)
    own_nonce = credentials.new_nonce()
    nonces = their_nonce + own_nonce
    proof = credentials.proof(b"caller", nonces, name)
    writer.write(credentials.greeting + own_nonce + bytes((len(name),)) + name + proof)
    _check(await reader.readexactly(PROOF_BYTES), credentials.proof(b"listener", nonces, name))


async def _greeted(reader: asyncio.StreamReader, credentials: Credentials) -> bytes:
    """The other's nonce."""
    greeting = await reader.readexactly(GREETING_BYTES)
    if greeting != credentials.greeting:
        theirs = greeting.rstrip(b"\0").decode("ascii", errors="replace")
        raise HandshakeFailed(f"it speaks {theirs!r} and not {credentials.protocol!r}")
    return await reader.readexactly(NONCE_BYTES)


def _check(given: bytes, expected: bytes) -> None:
    if not hmac.compare_digest(given, expected):
        raise HandshakeFailed("it does not know the secret")


def _broken(error: Exception, deadline_s: float) -> HandshakeFailed:
    if isinstance(error, TimeoutError):
        return HandshakeFailed(f"it did not introduce itself within {deadline_s:g} s")
    if isinstance(error, asyncio.IncompleteReadError):
        return HandshakeFailed("it closed the connection: it may have another secret, or speak another protocol")
    return HandshakeFailed(f"the connection broke: {error}")
