"""The way of results from an executor's threads to the event loop.

Invariant: what belongs to a time before the last `start`, `reset` or `stop` is nobody's, and is not delivered.
"""

from __future__ import annotations

import asyncio
import logging

from runtime.executor.port import PostResult
from runtime.messages import CommandRan, StepDone, StepFailed

log = logging.getLogger(__name__)

Result = StepDone | StepFailed | CommandRan


class Delivery:
    """Everything but `send` and `epoch` is for the loop's thread."""

    def __init__(self) -> None:
        self.epoch = 0
        """Grows at every start, reset and stop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._post: PostResult | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is somebody to deliver to."""
        return self._post is not None

    def open(self, post: PostResult) -> None:
        """From now on results go to `post` on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._post = post
        self.epoch += 1

    def forget(self) -> None:
        """What is on its way is nobody's any more."""
        self.epoch += 1

    def close(self) -> None:
        """Deliver nothing more."""
        self.epoch += 1
        self._post = None

    def send(self, epoch: int, result: Result) -> None:
        """Deliver a result of `epoch`, from any thread."""
        assert self._loop is not None, "plans are accepted after start"
        try:
            self._loop.call_soon_threadsafe(self._deliver, epoch, result)
        except RuntimeError:
            log.debug("the loop is closed; %s is dropped", type(result).__name__)

    def _deliver(self, epoch: int, result: Result) -> None:
        if epoch == self.epoch and self._post is not None:
            self._post(result)
