"""A client of a package, which keeps connections: opened again after it was closed, and closed with its owner.

The packages' clients connect when they are first used, and may be used on one event loop only: the shared one.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from frontend.loop import LoopThread, shared_loop

Close = Callable[[], Awaitable[None]]


class PackageClient:
    """`open_client` makes a client; `closer_of` gives what closes one."""

    def __init__(self, open_client: Callable[[], Any], closer_of: Callable[[Any], Close]) -> None:
        self._open_client = open_client
        self._closer_of = closer_of
        self._client: Any = None
        self._take_back: Callable[[], None] | None = None

    def open(self) -> Any:
        """The client; a new one if there is none. Raises what the package does about missing keys and the like."""
        if self._client is None:
            self._client = self._open_client()
            self._take_back = _close_sometime(self, self._closer_of(self._client))
        return self._client

    async def close(self) -> None:
        """What asks after this opens a new client."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._take_back is not None:
            self._take_back()
        await self._closer_of(client)()


def _close_sometime(owner: PackageClient, close: Close) -> Callable[[], None]:
    """Close when the owner is forgotten, or at the end of the process; both can be taken back."""
    loop = shared_loop()
    take_back = loop.close_at_end(close)
    finalizer = weakref.finalize(owner, _close_on, loop, close, take_back)
    finalizer.atexit = False

    def take_both_back() -> None:
        finalizer.detach()
        take_back()

    return take_both_back


def _close_on(loop: LoopThread, close: Close, take_back: Callable[[], None]) -> None:
    async def closed() -> None:
        await close()

    take_back()
    loop.submit(closed())
