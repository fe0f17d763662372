"""Bugs on purpose, one at a time, each of a kind that such servers have had. A simulation that does not find them is no use.

Each is a function that damages one class for the time of a `with` block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec

from runtime.actors.mailbox import Mailbox
from runtime.caching.lease import Lease
from runtime.caching.page_cache import PageCache
from runtime.caching.pool import PagePool
from runtime.caching.radix import RadixTree
from runtime.http.replies import Replies
from runtime.messages import Abort, EngineLost, GrammarCompiled, GrammarUnwanted, Release, StepDone, TextBatch, TokenBatch
from runtime.sampling.grammar import Grammar
from runtime.scheduling.batching import Batch
from runtime.scheduling.ledger import PageLedger
from runtime.scheduling.policies import fcfs
from runtime.scheduling.request import Request
from runtime.scheduling.state import Scheduling
from runtime.text.detokenizer import Detokenizer
from runtime.text.tokenizer import Tokenizer

Plant = Callable[[], contextlib.AbstractContextManager[None]]
PLANTS: dict[str, Plant] = {}


def plant(function: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    PLANTS[function.__name__] = contextlib.contextmanager(function)
    return function


def _every(nth: int) -> Callable[[], bool]:
    """True at each `nth` call: bugs that always happen are too easy."""
    calls = iter(range(1, 10**9))
    return lambda: next(calls) % nth == 0


@plant
def skip_one_release() -> Iterator[None]:
    release, is_due = PageCache.release, _every(5)

    def release_most(self: PageCache, message: Release) -> None:
        if not is_due():
            release(self, message)

    with mock.patch.object(PageCache, "release", release_most):
        yield


@plant
def free_a_page_twice() -> Iterator[None]:
    give_back, is_due = PagePool.give_back, _every(5)

    def give_back_more(self: PagePool, pages: Any, fence_step: int = -1) -> None:
        pages = list(pages)
        give_back(self, pages, fence_step)
        if pages and is_due():
            self._free.append(pages[0])

    with mock.patch.object(PagePool, "give_back", give_back_more):
        yield


@plant
def answer_a_request_twice() -> Iterator[None]:
    """The detokenizer says the end once more."""
    advance, is_due = Detokenizer._advance, _every(5)

    def advance_and_keep(self: Detokenizer, row: Any) -> Any:
        text_row = advance(self, row)
        if text_row is not None and text_row.finish is not None and is_due():
            self._http.tell(TextBatch(rows=(text_row,)))
        return text_row

    with mock.patch.object(Detokenizer, "_advance", advance_and_keep):
        yield


@plant
def lose_an_abort() -> Iterator[None]:
    handler, is_due = Tokenizer.handlers[Abort], _every(3)

    async def pass_on_most(self: Tokenizer, message: Abort) -> None:
        if not is_due():
            await handler(self, message)

    with mock.patch.dict(Tokenizer.handlers, {Abort: pass_on_most}):
        yield


@plant
def ignore_a_fence() -> Iterator[None]:
    release = PageLedger._release

    def release_at_once(self: PageLedger, lease_id: int, token_ids: tuple[int, ...], fence_step: int) -> None:
        release(self, lease_id, token_ids, 0)

    with mock.patch.object(PageLedger, "_release", release_at_once):
        yield


@plant
def drop_a_token() -> Iterator[None]:
    """A step's row is lost between the scheduler and the text."""
    handler, is_due = Detokenizer.handlers[TokenBatch], _every(20)

    async def decode_most(self: Detokenizer, batch: TokenBatch) -> None:
        if batch.rows and batch.rows[0].finish is None and is_due():
            batch = msgspec.structs.replace(batch, rows=batch.rows[1:])
        await handler(self, batch)

    with mock.patch.dict(Detokenizer.handlers, {TokenBatch: decode_most}):
        yield


@plant
def publish_what_is_not_computed() -> Iterator[None]:
    """The whole prompt is shared after its first chunk."""
    publish = Lease.publish

    def publish_ahead(self: Lease, num_tokens: int) -> None:
        publish(self, len(self._token_ids))

    with mock.patch.object(Lease, "publish", publish_ahead):
        yield


@plant
def evict_what_is_in_use() -> Iterator[None]:
    """A lease does not lock the part of its path that was cached before."""

    def lock_less(self: RadixTree, node: Any, below: Any = None) -> None:
        for place in self.path(node, below):
            if place.num_locks == 0 and not place.children:
                self.num_evictable_pages -= len(place.pages)
                self._dequeue(place)
                place.num_locks += 1

    with mock.patch.object(RadixTree, "lock", lock_less):
        yield


@plant
def match_the_last_token() -> Iterator[None]:
    """A whole prompt comes from the cache, so that there are no logits for its next token."""

    def max_match_pages(self: PageCache, token_ids: tuple[int, ...]) -> int:
        return len(token_ids) // self.page_size if self._is_sharing else 0

    with mock.patch.object(PageCache, "_max_match_pages", max_match_pages):
        yield


@plant
def break_the_token_budget() -> Iterator[None]:
    make = Batch.__init__

    def make_generous(self: Batch, num_slots: int, budget_tokens: int) -> None:
        make(self, num_slots, budget_tokens + 1)

    with mock.patch.object(Batch, "__init__", make_generous):
        yield


@plant
def forget_output_at_a_retraction() -> Iterator[None]:
    def known_ids(self: Request) -> tuple[int, ...]:
        return self.token_ids

    with mock.patch.object(Request, "known_ids", known_ids):
        yield


@plant
def take_the_neighbours_token() -> Iterator[None]:
    """The results of a step are handed to the wrong rows."""
    handler, is_due = Scheduling.step_done, _every(10)

    def step_done(self: Scheduling, message: StepDone) -> None:
        if len(set(message.token_ids)) > 1 and is_due():
            message = msgspec.structs.replace(message, token_ids=message.token_ids[1:] + message.token_ids[:1])
        handler(self, message)

    with mock.patch.object(Scheduling, "step_done", step_done):
        yield


@plant
def forget_a_lost_engine() -> Iterator[None]:
    """The detokenizer is not told, so that it keeps sequences for ever."""

    async def forget(self: Detokenizer, message: EngineLost) -> None:
        return None

    with mock.patch.dict(Detokenizer.handlers, {EngineLost: forget}):
        yield


@plant
def leave_requests_open_after_a_crash() -> Iterator[None]:
    """Requests that a restart lost are never answered."""

    def lose_all(self: Replies, reason: str) -> None:
        return None

    with mock.patch.object(Replies, "lose_all", lose_all):
        yield


@plant
def compile_for_nobody() -> Iterator[None]:
    """What clients that left had asked for is compiled in front of what others ask for."""

    async def ignore(self: Grammar, message: GrammarUnwanted) -> None:
        return None

    with mock.patch.dict(Grammar.handlers, {GrammarUnwanted: ignore}):
        yield


@plant
def blame_the_grammar() -> Iterator[None]:
    """That the compiler was killed once is remembered for ever."""
    handler = Grammar.handlers[GrammarCompiled]

    async def compiled(self: Grammar, message: GrammarCompiled) -> None:
        await handler(self, msgspec.structs.replace(message, is_lasting=True))

    with mock.patch.dict(Grammar.handlers, {GrammarCompiled: compiled}):
        yield


@plant
def lose_a_wake_up() -> Iterator[None]:
    wake, is_due = Mailbox._wake, _every(50)

    def wake_mostly(self: Mailbox) -> None:
        if not is_due():
            wake(self)

    with mock.patch.object(Mailbox, "_wake", wake_mostly):
        yield


@plant
def serve_the_last_first() -> Iterator[None]:
    def rank(self: fcfs.Policy, request: Request, now: float) -> tuple[float, ...]:
        return (-request.arrival,)

    with mock.patch.object(fcfs.Policy, "rank", rank):
        yield


@plant
def leave_stopped_sequences_running() -> Iterator[None]:
    """After a stop string the scheduler is not told to end the sequence."""
    advance = Detokenizer._advance

    def advance_alone(self: Detokenizer, row: Any) -> Any:
        scheduler, self._scheduler = self._scheduler, mock.Mock()
        try:
            return advance(self, row)
        finally:
            self._scheduler = scheduler

    with mock.patch.object(Detokenizer, "_advance", advance_alone):
        yield


@plant
def miss_the_deadline() -> Iterator[None]:
    """A request past its deadline is answered, but runs on."""

    def expire(self: Replies, reply: Any) -> None:
        self._abort = lambda request_id, cause: None  # type: ignore[method-assign]
        original(self, reply)
        del self._abort

    original = Replies._expire
    with mock.patch.object(Replies, "_expire", expire):
        yield
