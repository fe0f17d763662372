"""Connections: how the application meets sockets.

aiohttp answers malformed HTTP and unexpected exceptions below the application, in plain text; here they get the envelope. This
is the one exception boundary outside of the actors: an exception that nobody expected becomes a 500 with a fixed text, and
its details go to the log only.

A client that closes its half of the connection has left: nothing tells it from one that closed both, and a request must not go
on for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from runtime.errors import Failure, InternalError, InvalidRequest, StartError
from runtime.http.middleware import put_headers
from runtime.http.responses import error_response
from runtime.http.service import REQUEST_ID, SERVICE

log = logging.getLogger(__name__)

KEEPALIVE_S = 75.0
HEADERS_TIMEOUT_S = 30.0
SHUTDOWN_S = 5.0
LINGER_S = 1.0
"""How long the rest of a refused body is read, so that its sender gets to see the answer."""
MAX_LINE_BYTES = 8190
MAX_HEADER_BYTES = 16 * 2**10


class Connection(web.RequestHandler):
    """One client's connection. It is closed when the headers of a request take longer than `HEADERS_TIMEOUT_S` to arrive."""

    __slots__ = ("_patience", "new_request_id")

    _patience: asyncio.TimerHandle | None
    new_request_id: Callable[[], str]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._patience = asyncio.get_running_loop().call_later(HEADERS_TIMEOUT_S, self.force_close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waiting_for_headers = self._current_request is None and not self._messages
        if not is_waiting_for_headers:
            self._stop_waiting()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(HEADERS_TIMEOUT_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the application did not. Raises `ConnectionError`, which closes, if it is too late for an answer."""
        if isinstance(exc, ConnectionError):  # the client went away while we wrote
            raise exc
        if status >= 500:
            log.error("%s %s failed: %r", request.method, request.path, exc, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response had begun")
        response = error_response(_failure(status, exc), request.path)
        put_headers(response, request.get(REQUEST_ID) or self.new_request_id())
        response.force_close()
        return response


class Listener(web.Server):
    """Makes a `Connection` of everyone who connects. `new_request_id` names what is refused before it is a request."""

    new_request_id: Callable[[], str] = str

    def __call__(self) -> web.RequestHandler:
        connection = Connection(self, loop=self._loop, **self._kwargs)
        connection.new_request_id = self.new_request_id
        return connection


class Runner(web.AppRunner):
    """An application on sockets. `cleanup` closes them and gives handlers `SHUTDOWN_S` seconds to finish writing."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        listener = Listener(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            **plain._kwargs,
        )
        if SERVICE in self.app:
            listener.new_request_id = self.app[SERVICE].new_request_id
        return listener


def check_address(host: str, port: int) -> None:
    """Raise `StartError` if `serve` could not listen there now: worth knowing before a model is loaded."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise _not_listening(host, port, error) from None


async def serve(app: web.Application, host: str, port: int) -> tuple[Runner, int]:
    """Listen; returns the runner, to be cleaned up, and the port, which matters if 0 was asked for. Raises `StartError`."""
    options: dict[str, Any] = {
        "access_log": None,
        "auto_decompress": False,
        "handler_cancellation": True,
        "keepalive_timeout": KEEPALIVE_S,
        "lingering_time": LINGER_S,
        "max_line_size": MAX_LINE_BYTES,
        "max_field_size": MAX_HEADER_BYTES,
        "shutdown_timeout": SHUTDOWN_S,
    }
    runner = Runner(app, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise _not_listening(host, port, error) from None
    return runner, runner.addresses[0][1]


def _not_listening(host: str, port: int, error: OSError) -> StartError:
    reason = error.strerror or str(error)
    return StartError(f"can not listen on {host}:{port}: {reason}; choose another address with --host and --port")


def _failure(status: int, error: BaseException | None) -> Failure:
    if status >= 500:
        return InternalError("the server failed on this request; its log has the details").failure
    if isinstance(error, LineTooLong):
        status = 414 if error.args[1] == MAX_LINE_BYTES else 431
        part, limit = ("URL", MAX_LINE_BYTES) if status == 414 else ("headers", MAX_HEADER_BYTES)
        return Failure(status=status, type=InvalidRequest.type, message=f"the {part} must not be longer than {limit} bytes")
    return Failure(status=status, type=InvalidRequest.type, message="the request is not valid HTTP")
