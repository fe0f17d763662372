"""HTTP to one server, on the shared loop: connections are kept and used again, and each request is a task, not a thread.

A request whose task is cancelled, and a stream that is closed early, close their connection, by which the server learns
that nobody waits any more.
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from frontend.errors import BackendError, Overloaded, StreamBroken, TimedOut, Unreachable
from frontend.loop import LoopThread, shared_loop

CONNECT_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 4.0
"""Less than SGLang's server keeps a connection that nobody uses, so that none is used which it is just closing."""
READ_BUFFER_BYTES = 2**20
OVERLOADED = (429, 503)
MAX_SHOWN_CHARS = 2000


class Connection:
    """`verify` is the path of a file with the certificates to trust."""

    def __init__(self, base_url: str, api_key: str | None = None, verify: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json; charset=utf-8"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None
        self._take_back: Callable[[], None] | None = None

    async def get(self, path: str) -> Any:
        """The JSON of the answer. Raises `BackendError`."""
        return _parsed(await self._whole("GET", path, None))

    async def post(self, path: str, body: Any) -> Any:
        return _parsed(await self._whole("POST", path, orjson.dumps(body)))

    async def tell(self, path: str) -> None:
        """POST without a body; what is answered does not matter if it is a success."""
        await self._whole("POST", path, b"")

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        """The JSON of each event of a stream, up to `[DONE]`. Raises `StreamBroken` if that never comes."""
        async with self._response("POST", path, orjson.dumps(body)) as response:
            async for line in response.content:
                data = line.removeprefix(b"data:").strip()
                if not data or not line.startswith(b"data:"):
                    continue
                if data == b"[DONE]":
                    return
                yield _event(data)
        raise StreamBroken(f"the stream of {self._base_url}{path} ended too early")

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            if self._take_back is not None:
                self._take_back()
            await session.close()

    async def _whole(self, method: str, path: str, data: bytes | None) -> bytes:
        async with self._response(method, path, data) as response:
            return await response.read()

    @asynccontextmanager
    async def _response(self, method: str, path: str, data: bytes | None) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._base_url + path
        try:
            async with self._opened().request(method, url, data=data) as response:
                if response.status != 200:
                    raise _refusal(url, response, await response.read())
                yield response
        except TimeoutError as error:
            raise TimedOut(f"{url} did not answer in time") from error
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
            raise StreamBroken(f"{url} closed the connection before its answer was whole: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{url} can not be reached: {error}") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._verify) if self._verify else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=context),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                read_bufsize=READ_BUFFER_BYTES,
            )
            self._take_back = _close_sometime(self, self._session)
        return self._session


def _close_sometime(owner: Connection, session: aiohttp.ClientSession) -> Callable[[], None]:
    """Close the session when its owner is forgotten, or at the end of the process; both can be taken back."""
    loop = shared_loop()
    take_back = loop.close_at_end(session.close)
    finalizer = weakref.finalize(owner, _close_on, loop, session, take_back)
    finalizer.atexit = False

    def take_both_back() -> None:
        finalizer.detach()
        take_back()

    return take_both_back


def _close_on(loop: LoopThread, session: aiohttp.ClientSession, take_back: Callable[[], None]) -> None:
    take_back()
    loop.submit(session.close())


def _refusal(url: str, response: aiohttp.ClientResponse, body: bytes) -> BackendError:
    message = f"{url} answered {response.status}: {_reason(body)}"
    if response.status not in OVERLOADED:
        return BackendError(message, status=response.status)
    wait = response.headers.get("Retry-After", "")
    return Overloaded(message, status=response.status, retry_after_s=float(wait) if wait.isdigit() else None)


def _reason(body: bytes) -> str:
    """What the error says, in whichever form servers say it."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")[:MAX_SHOWN_CHARS]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:MAX_SHOWN_CHARS]


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BackendError(f"the answer is not JSON: {body[:MAX_SHOWN_CHARS]!r}") from error


def _event(data: bytes) -> Any:
    """Raises `BackendError` for an event that is an error."""
    event = _parsed(data)
    if isinstance(event, dict) and "error" in event:
        raise BackendError(f"the stream ended with an error: {_reason(data)}", status=None)
    return event
