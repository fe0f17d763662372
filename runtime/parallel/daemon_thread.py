"""A call on a thread of its own that nobody has to wait for: loading a model may hang when another rank is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from runtime.actors.foreign_code import outcome

log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def call_in_thread(call: Callable[[], _T], name: str) -> _T:
    """What `call` returns or raises. The thread is a daemon: when this is cancelled it is left behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def deliver(result: _T | Exception) -> None:
        if done.cancelled():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def work() -> None:
        result = outcome(call)
        try:
            loop.call_soon_threadsafe(deliver, result)
        except RuntimeError:
            log.debug("the loop is closed; what %s came to is dropped", name)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await done
