"""Server-sent events: one request's bundle written to its client as it comes.

The 200 is held back until the first text or `FIRST_BYTE_S`, so that what goes wrong before has a status of its own. After that
an error is an event, followed by `[DONE]` as every stream is. A client that reads slowly blocks only its own writes: its rows
wait, joined, in their replies. A client that stops reading is cut off when its requests' time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import msgspec
from aiohttp import web

from runtime.errors import Failure, RequestError
from runtime.http.bundle import Bundle
from runtime.http.failure import envelope
from runtime.http.reply import Bell
from runtime.http.service import SERVICE
from runtime.messages import TextRow

FIRST_BYTE_S = 2.0
PING_S = 15.0
SLOW_READER_S = 30.0
"""How long after the deadline of its requests a stream may still be written."""

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Events(Protocol):
    """How an API writes its events."""

    def of_row(self, index: int, row: TextRow) -> bytes:
        """The events that `row` of the sequence `index` makes, each ended by an empty line; may be none."""
        ...

    def at_end(self) -> bytes:
        """The events after the last row."""
        ...


def _error_event(failure: Failure) -> bytes:
    return b"data: " + envelope(failure) + b"\n\n"


class Framing(msgspec.Struct, frozen=True, kw_only=True):
    """What an API puts between and after its events; the defaults are SGLang's and OpenAI's."""

    ping: bytes = PING
    """Tells the client that we are there while nothing else happens."""
    done: bytes = DONE
    """Follows the last event, and an error."""
    error: Callable[[Failure], bytes] = _error_event


FRAMING = Framing()


async def stream(request: web.Request, bundle: Bundle, events: Events, framing: Framing = FRAMING) -> web.StreamResponse:
    """Write the whole stream. Raises `RequestError` if it fails before the first byte, and `ConnectionError`."""
    response = web.StreamResponse(headers=HEADERS)
    limit_s = request.app[SERVICE].config.http.request_timeout + SLOW_READER_S
    with Ticks(bundle.bell):
        rows = await bundle.rows()
        try:
            async with asyncio.timeout(limit_s):
                await response.prepare(request)
                await _write_rows(response, bundle, events, rows, framing)
        except TimeoutError:
            _cut_off(request)
            raise ConnectionResetError("the client stopped reading") from None
    return response


async def _write_rows(
    response: web.StreamResponse, bundle: Bundle, events: Events, rows: list[tuple[int, TextRow]], framing: Framing
) -> None:
    """From the first rows, which may be none, to the end. What is there at once goes out in one write."""
    try:
        while True:
            data = b"".join([events.of_row(index, row) for index, row in rows])
            if bundle.is_read:
                break
            if data or not rows:
                await response.write(data or framing.ping)
            rows = await bundle.rows()
        data += events.at_end()
    except RequestError as error:
        data = framing.error(error.failure)
    await response.write(data + framing.done)


def _cut_off(request: web.Request) -> None:
    """Closing waits until what is buffered is sent, which here may be never."""
    if request.transport is not None:
        request.transport.abort()


class Ticks:
    """Wakes the reader of a silent bell: once after `FIRST_BYTE_S`, then every `PING_S` in which it did not ring."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._num_rings = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTE_S, self._tick)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        if self._bell.num_rings == self._num_rings:
            self._bell.wake()
        self._num_rings = self._bell.num_rings
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._tick)
