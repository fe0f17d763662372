"""Trying again, with growing pauses, what a backend refused for now."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from frontend.errors import BackendError

T = TypeVar("T")

log = logging.getLogger("frontend")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """`num_tries` in all. Pauses double from `first_pause_s` up to `max_pause_s`, each cut by chance so that they spread.

    A server that asks for a pause longer than `max_retry_after_s` is not asked again.
    """

    num_tries: int = 5
    first_pause_s: float = 0.5
    max_pause_s: float = 20.0
    max_retry_after_s: float = 120.0

    @classmethod
    def of(cls, max_retries: int | None) -> Retry:
        """As client packages count: tries after the first one. None means the default."""
        return cls() if max_retries is None else cls(num_tries=max_retries + 1)

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, which is called anew after each `BackendError` that may pass. Raises the last one."""
        for number in range(1, self.num_tries):
            try:
                return await attempt()
            except BackendError as error:
                if not error.is_retryable or (error.retry_after_s or 0.0) > self.max_retry_after_s:
                    raise
                pause_s = self.pause_s(number, error)
                log.info("try %d of %d in %.1f s: %s", number + 1, self.num_tries, pause_s, error)
            await asyncio.sleep(pause_s)
        return await attempt()

    def pause_s(self, number: int, error: BackendError) -> float:
        """Before the try after `number`: at least what the server asked for."""
        pause_s: float = min(self.first_pause_s * 2 ** (number - 1), self.max_pause_s) * random.uniform(0.5, 1.0)
        return max(pause_s, error.retry_after_s or 0.0)
