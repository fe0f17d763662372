"""From the queue to a lease: which waiting request may ask the cache for pages, and what the answer means.

Owns the queue and the requests that are RESERVING. A request is admitted in the policy's order while slots last and the
estimated need fits in the available pages; with nothing else in the pool the head is always tried. After a denial nobody is
admitted until more pages are available than there were.
"""

from __future__ import annotations

from runtime.messages import PagesDenied, PagesGranted, PrefixMatched, ReservePages, UnwatchPrefix, WatchPrefix
from runtime.scheduling.batching import Batch
from runtime.scheduling.effects import Outbox
from runtime.scheduling.estimate import NeedEstimate
from runtime.scheduling.ledger import PageLedger
from runtime.scheduling.policy import Policy
from runtime.scheduling.queue import WaitingQueue
from runtime.scheduling.request import Request, Stage
from runtime.scheduling.sharing import PrefixLeaders

MAX_LOOKS = 32
"""Requests looked at in one pass, so that a crowd does not hold up the next step. Whoever was reserved for or is waited for
causes the next pass."""


class Admission:
    """`shares_prefixes` is False when the cache keeps nothing, so that nobody waits for pages that are never shared."""

    def __init__(
        self,
        policy: Policy,
        batch: Batch,
        ledger: PageLedger,
        out: Outbox,
        *,
        page_size: int,
        conservativeness: float,
        shares_prefixes: bool,
    ) -> None:
        self.queue = WaitingQueue(policy)
        self.leaders = PrefixLeaders(page_size)
        self.estimate = NeedEstimate(conservativeness)
        self.reserving: dict[int, Request] = {}
        self.is_closed = False
        """Only requests that have begun are admitted again."""
        self._batch = batch
        self._ledger = ledger
        self._out = out
        self._page_size = page_size
        self._shares_prefixes = shares_prefixes
        self._watched: dict[int, Request] = {}
        self._denied_at: int | None = None
        self._now = 0.0

    @property
    def is_pool_empty(self) -> bool:
        """Whether nobody holds pages and none is on its way back.

        Pages granted to a request that has ended are not seen here, but by the time a later denial arrives, they are: answers
        come in the order of the questions.
        """
        return not (self._batch or self.reserving) and self._ledger.is_quiet

    def enqueue(self, request: Request) -> None:
        self.queue.push(request, self._now)

    def lead(self, request: Request, num_published_tokens: int) -> None:
        """The request is about to publish the page after `num_published_tokens`; nobody waits for those before."""
        if self._shares_prefixes:
            self._enqueue_all(self.leaders.lead(request, num_published_tokens))

    def retracted(self, request: Request) -> None:
        """The request, already out of the batch, waits again at the front."""
        self._requeue(request)
        self.estimate.retracted([*self._batch.requests(), request])

    def ended(self, request: Request, stage: Stage) -> None:
        """The request ended when it was in `stage`."""
        if stage is Stage.RESERVING:
            del self.reserving[request.request_id]
        elif stage is Stage.WAITING:
            self.queue.discard(request)
        self._enqueue_all(self.leaders.drop(request))
        self._unwatch(request)

    # -- answers of the cache ------------------------------------------------------------------------------------------

    def granted(self, message: PagesGranted) -> Request | None:
        """The request that may run now. None if it has ended in the meantime: its pages go back."""
        self._ledger.ask_again()
        request = self.reserving.pop(message.request_id, None)
        if request is None:
            self._ledger.give_back(message)
            return None
        self._ledger.open(request, message)
        self._batch.join(request)
        self._unwatch(request)
        self.lead(request, request.num_published_tokens)
        return request

    def denied(self, message: PagesDenied) -> Request | None:
        """The request that is back at the front of the queue. None if it has ended in the meantime."""
        self._ledger.ask_again()
        self._ledger.num_available_pages = message.num_available_pages
        self._denied_at = message.num_available_pages
        request = self.reserving.pop(message.request_id, None)
        if request is not None:
            self._requeue(request)
        return request

    def matched(self, message: PrefixMatched) -> int:
        """Returns the number of matches that came too late."""
        num_late = 0
        for match in message.matches:
            request = self._watched.get(match.request_id)
            if request is None:
                num_late += 1
                continue
            most = request.max_cached_tokens
            request.num_hit_tokens = match.num_cached_tokens if most is None else min(match.num_cached_tokens, most)
            request.tree_order = match.tree_order
            self.queue.rerank(request, self._now)
        return num_late

    # -- the pass over the queue ---------------------------------------------------------------------------------------

    def admit_waiting(self, now: float) -> None:
        """Reserve pages in the policy's order, as far as slots and the estimated need allow."""
        self._now = now
        if self._may_admit():
            self._reserve_some()
        self._watch()

    def _reserve_some(self) -> None:
        num_spare_tokens = self._num_spare_tokens()
        for _ in range(MAX_LOOKS):
            request = self.queue.head() if self._has_free_slot() else None
            if request is None or request.num_in_flight_rows:
                return  # the last tokens of a retracted request are on their way
            if self.is_closed and not request.has_begun:
                return
            leader = self.leaders.find(request)
            if leader is not None:
                self.leaders.hold(self.queue.pop(), leader)
                continue
            growth = self.estimate.growth_tokens(request)
            if request.num_reserved_tokens - request.num_hit_tokens + growth > num_spare_tokens and not self.is_pool_empty:
                return
            # What it hits may be unused pages, which are then no longer available: only the next answer knows.
            num_spare_tokens -= request.num_reserved_tokens + growth
            self._reserve(self.queue.pop())

    def _may_admit(self) -> bool:
        """Pages that the cache has not heard of, and stalled requests, come first."""
        if not self.queue or not self._has_free_slot() or self._ledger.has_unsent or self._ledger.stalled:
            return False
        if self._denied_at is not None:
            if self._ledger.num_available_pages <= self._denied_at and not self.is_pool_empty:
                return False
            self._denied_at = None
        return True

    def _has_free_slot(self) -> bool:
        return len(self._batch.free_slots) > len(self.reserving)

    def _num_spare_tokens(self) -> float:
        spare = float(self._ledger.num_available_pages * self._page_size)
        for request in self._batch.requests():
            spare -= self.estimate.growth_tokens(request)
        for request in self.reserving.values():
            spare -= request.num_reserved_tokens + self.estimate.growth_tokens(request)
        return spare

    def _reserve(self, request: Request) -> None:
        request.token_ids = request.known_ids()
        request.stage = Stage.RESERVING
        self.reserving[request.request_id] = request
        self.lead(request, request.num_hit_tokens)
        message = ReservePages(
            request_id=request.request_id, token_ids=request.token_ids, max_cached_tokens=request.max_cached_tokens
        )
        self._out.send("cache", message)

    def _requeue(self, request: Request) -> None:
        request.stage = Stage.WAITING
        request.is_front = True
        self._enqueue_all([request, *self.leaders.drop(request)])

    def _enqueue_all(self, requests: list[Request]) -> None:
        for request in requests:
            self.enqueue(request)

    def _watch(self) -> None:
        """Only those that stay in the queue: the others learn of their hits with their pages."""
        for request in self.queue.unwatched():
            self._watched[request.request_id] = request
            request.is_watched = True
            self._out.send("cache", WatchPrefix(request_id=request.request_id, token_ids=request.known_ids()))

    def _unwatch(self, request: Request) -> None:
        if request.is_watched:
            request.is_watched = False
            del self._watched[request.request_id]
            self._out.send("cache", UnwatchPrefix(request_id=request.request_id))
