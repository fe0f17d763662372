"""The waiting requests in the policy's order. Retracted requests come before denied ones, and those before all others.

Sorted only when someone looks at the head and something changed. Requests that left are dropped when they come up.
"""

from __future__ import annotations

from runtime.scheduling.policy import Policy
from runtime.scheduling.request import Request

MAX_LEFT_ENTRIES = 64
"""Entries of requests that left, beyond which the queue is cleared of them."""


def _by_rank(request: Request) -> tuple[bool, bool, tuple[float, ...]]:
    return (not request.has_begun, not request.is_front, request.rank)


def _by_arrival(request: Request) -> tuple[bool, bool, tuple[float, ...]]:
    return (not request.has_begun, not request.is_front, (request.arrival,))


class WaitingQueue:
    """Holds each request at most once: `is_queued` says which."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._entries: list[Request] = []  # the head is at the end
        self._is_sorted = True
        self._by_rank = True
        self._num_queued = 0
        self._has_unwatched = False

    def __len__(self) -> int:
        return self._num_queued

    def push(self, request: Request, now: float) -> None:
        request.rank = self._policy.rank(request, now)
        request.is_queued = True
        self._entries.append(request)
        self._num_queued += 1
        self._is_sorted = False
        self._has_unwatched = self._policy.needs_prefix

    def discard(self, request: Request) -> None:
        """Take a request out that ended; it may be one that is not in."""
        if request.is_queued:
            request.is_queued = False
            self._num_queued -= 1
            if len(self._entries) > 2 * self._num_queued + MAX_LEFT_ENTRIES:
                self._entries = [entry for entry in self._entries if entry.is_queued]

    def rerank(self, request: Request, now: float) -> None:
        request.rank = self._policy.rank(request, now)
        self._is_sorted = self._is_sorted and not request.is_queued

    def head(self) -> Request | None:
        self._sort()
        entries = self._entries
        while entries and not entries[-1].is_queued:
            entries.pop()
        return entries[-1] if entries else None

    def pop(self) -> Request:
        """Take out what `head` returned."""
        request = self._entries.pop()
        request.is_queued = False
        self._num_queued -= 1
        return request

    def unwatched(self) -> list[Request]:
        """Requests whose prefix the policy needs to know and nobody watches: none while the queue is too long to rank."""
        if not self._has_unwatched or not self._is_ranked():
            return []
        self._has_unwatched = False
        return [request for request in reversed(self._entries) if request.is_queued and not request.is_watched]

    def _is_ranked(self) -> bool:
        return self._policy.max_ranked is None or self._num_queued <= self._policy.max_ranked

    def _sort(self) -> None:
        by_rank = self._is_ranked()
        if self._is_sorted and by_rank == self._by_rank:
            return
        self._entries = [request for request in self._entries if request.is_queued]
        self._entries.sort(key=_by_rank if by_rank else _by_arrival, reverse=True)
        self._is_sorted = True
        self._by_rank = by_rank
