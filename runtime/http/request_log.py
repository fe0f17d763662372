"""The log of requests, which an operator turns on and off while the server runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.http.bundle import Bundle
from runtime.http.generation import Generation

log = logging.getLogger(__name__)


@dataclass
class RequestLog:
    """`level` 0 logs what became of a request; 1 also its parameters; 2 also its prompt."""

    is_on: bool = False
    level: int = 1

    @contextlib.contextmanager
    def of(self, generations: Sequence[Generation], bundle: Bundle) -> Iterator[None]:
        """Log the beginning and the end of a request."""
        if not self.is_on:
            yield
            return
        first = generations[0]
        details = [str(first.params)] * (self.level > 0) + [f"{first.prompt!s:.2048}"] * (self.level > 1)
        log.info("request %s: %s", first.label, ", ".join([f"{len(generations)} sequences", *details]))
        try:
            yield
        finally:
            log.info("request %s ended: %s", first.label, bundle.outcome())
