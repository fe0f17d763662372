"""A link: messages between two processes, over a connection whose ends already know each other (`handshake`).

Each frame is the length of its body (4 bytes, little-endian) and a body of msgpack; an empty body is a heartbeat. What may come
in is one tagged union of msgspec structs, given at construction: the link knows nothing of what they mean.

Owns the connection and two tasks. A heartbeat goes out every second, whatever else is sent. Invariant: `on_lost` is called at
most once, and nothing is received after it: when the other end closes, sends what is no message, says nothing for `silence_s`,
or does not read. An end that was `close`d loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec

from runtime.clock import Clock

log = logging.getLogger(__name__)

LENGTH = struct.Struct("<I")
HEARTBEAT = LENGTH.pack(0)
HEARTBEAT_S = 1.0
SILENCE_S = 6.0
MAX_FRAME_BYTES = 64 * 2**20
MAX_UNREAD_BYTES = 128 * 2**20
"""How much may wait for an end that does not read: more than any burst that it could still work off."""
CLOSE_S = 2.0

_Received = TypeVar("_Received")


class BrokenFrame(Exception):
    """The bytes are not those of a message."""


class Link(Generic[_Received]):
    """One end. `start` begins to receive; `on_message` and `on_lost` are called on the running loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        received: Any,
        *,
        on_message: Callable[[_Received], None],
        on_lost: Callable[[str], None],
        clock: Clock,
        silence_s: float = SILENCE_S,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`received`: the union of structs that may come in. `on_lost` gets the reason, as in "the peer …"."""
        self.silence_s = silence_s
        self._reader = reader
        self._writer = writer
        self._decode: Callable[[bytes], _Received] = msgspec.msgpack.Decoder(received).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._on_message = on_message
        self._on_lost = on_lost
        self._clock = clock
        self._max_frame_bytes = max_frame_bytes
        self._max_unread_bytes = max_unread_bytes
        self._sleep = sleep
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._ticked_at = clock.monotonic()
        self._silent_s = 0.0
        self._is_heard = True
        self.is_open = True

    def start(self) -> None:
        """Begin to receive and to send heartbeats."""
        self._ticked_at = self._clock.monotonic()
        self._tasks = (asyncio.create_task(self._receive()), asyncio.create_task(self._beat()))

    def send(self, message: msgspec.Struct) -> None:
        """Send and go on; nothing happens once the link is lost or closed. Raises `ValueError` if the message is too long."""
        body = self._encode(message)
        if len(body) > self._max_frame_bytes:
            raise ValueError(f"a message of {len(body)} bytes is longer than {self._max_frame_bytes}")
        self._write(LENGTH.pack(len(body)) + body)

    async def close(self) -> None:
        """Send what waits, then hang up; idempotent. `on_lost` is not called any more."""
        self.is_open = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:  # it does not read
            self._writer.transport.abort()
        except OSError as error:
            log.debug("the link was broken when it was closed: %s", error)

    async def _receive(self) -> None:
        try:
            while self.is_open:
                body = await self._frame()
                self._is_heard = True
                if body:
                    self._on_message(self._decode(body))
        except asyncio.IncompleteReadError as error:
            self._lose("closed the connection" + (" in the middle of a message" if error.partial else ""))
        except OSError as error:
            self._lose(f"broke the connection ({error})")
        except (BrokenFrame, msgspec.MsgspecError) as error:
            self._lose(f"sent what is no message ({error})")
        except Exception as error:
            log.exception("a message could not be taken")
            self._lose(f"sent a message that could not be taken ({error})")

    async def _frame(self) -> bytes:
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > self._max_frame_bytes:
            raise BrokenFrame(f"{length} bytes are longer than any")
        return await self._reader.readexactly(length)

    async def _beat(self) -> None:
        while self.is_open:
            await self._sleep(HEARTBEAT_S)
            self._tick()

    def _tick(self) -> None:
        now = self._clock.monotonic()
        # A process that was itself stopped or busy has not listened: that time says nothing about the other end.
        elapsed_s = min(now - self._ticked_at, 2 * HEARTBEAT_S)
        self._ticked_at = now
        self._silent_s = 0.0 if self._is_heard else self._silent_s + elapsed_s
        self._is_heard = False
        if self._silent_s >= self.silence_s:
            self._lose(f"has said nothing for {self._silent_s:.0f} s")
        self._write(HEARTBEAT)

    def _write(self, frame: bytes) -> None:
        if not self.is_open:
            return
        self._writer.write(frame)
        num_unread = self._writer.transport.get_write_buffer_size()
        if num_unread > self._max_unread_bytes:
            self._lose(f"does not read ({num_unread} bytes wait)")

    def _lose(self, reason: str) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._writer.transport.abort()  # wakes `_receive`, which then ends
        self._on_lost(reason)
