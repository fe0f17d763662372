"""The table of open requests. It belongs to the composition root, so that it survives restarts of the Http actor.

Owns request ids and every open `Reply`. Sends `Tokenize` and `Abort` to the tokenizer and `RequestStats` to metrics. The Http
actor feeds it what it receives. Invariant: each reply ends exactly once, by its last row, a failure, its deadline or a cancel;
rows that come later are counted and dropped. Nothing here knows HTTP or reads a clock of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Literal

from runtime.actors.actor import Ref
from runtime.actors.mailbox import MailboxFull
from runtime.clock import Clock
from runtime.errors import DeadlineExceeded, Overloaded, RequestError, Unavailable
from runtime.http.failure import error_of
from runtime.http.generation import Generation
from runtime.http.reply import Bell, Reply
from runtime.messages import Abort, AbortCause, RequestFailed, RequestStats, TextBatch, Tokenize, Tokenized

log = logging.getLogger(__name__)

ABORT_RETRY_S = 0.05
RESTART_RETRY_S = 5
MAX_RETRY_S = 60
LATENCY_WEIGHT = 0.1
"""Share of the newest request in the running mean of latencies."""

Outcome = Literal["finished", "failed", "aborted"]


class Replies:
    """Opens replies, feeds them and ends them. `max_open` bounds them; `request_timeout_s` None means no deadline."""

    def __init__(
        self,
        tokenizer: Ref,
        metrics: Ref,
        clock: Clock,
        *,
        max_open: int,
        request_timeout_s: float | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._clock = clock
        self._max_open = max_open
        self._request_timeout_s = request_timeout_s
        self._request_ids = itertools.count(1)
        self._open: dict[int, Reply] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._mean_latency_s = 1.0
        self.is_draining = False
        self.busy_since = 0.0
        """When the table last stopped being empty, on the monotonic clock."""
        self.num_late_rows = 0
        """Rows and failures that came for requests that had ended: normal after a cancel."""

    @property
    def num_open(self) -> int:
        return len(self._open)

    def submit(
        self,
        generation: Generation,
        *,
        is_streaming: bool = False,
        bell: Bell | None = None,
    ) -> Reply:
        """Send a sequence on its way. Raises `Unavailable` while draining and `Overloaded` when `max_open` are open.

        `bell` is shared by replies that one task reads.
        """
        self._check_admission()
        message = Tokenize(
            request_id=next(self._request_ids),
            prompt=generation.prompt,
            params=generation.params,
            text=generation.text,
            grammar=generation.grammar,
            logprobs=generation.logprobs,
            returns_hidden_states=generation.returns_hidden_states,
            priority=generation.priority,
            arrived=self._clock.monotonic(),
        )
        self._send(message)
        reply = Reply(
            message.request_id,
            bell or Bell(),
            self._cancel,
            arrived=message.arrived,
            label=generation.label,
            is_streaming=is_streaming,
            is_counted=generation.is_counted,
        )
        self._enter(reply)
        return reply

    def deliver(self, batch: TextBatch) -> None:
        """One step's text: hand each row to its reply and end those that finished."""
        now = self._clock.monotonic()
        for row in batch.rows:
            reply = self._open.get(row.request_id)
            if reply is None:
                self.num_late_rows += 1
                continue
            reply.push(row, now)
            if row.finish is not None:
                self._leave(reply, "aborted" if row.finish.type == "abort" else "finished")

    def note_prompt(self, message: Tokenized) -> None:
        """A prompt was encoded: a reply that ends in the queue can say how long it was."""
        reply = self._open.get(message.request_id)
        if reply is not None:
            reply.note_prompt(message.num_prompt_tokens)

    def fail(self, failed: RequestFailed) -> None:
        """A request ended without a result somewhere in the pipeline."""
        reply = self._open.get(failed.request_id)
        if reply is None:
            self.num_late_rows += 1
        else:
            self._fail(reply, error_of(failed.failure))

    def lose_all(self, reason: str) -> None:
        """The pipeline lost its state: every open request fails with 503 `engine_restarting` and is aborted upstream."""
        num_lost = self._break_off(self._open.values(), "restart", _lost)
        log.warning("%d requests were lost: %s", num_lost, reason)  # the reason is for us, not for clients

    def cancel_labelled(self, label: str | None) -> int:
        """Cancel every reply with exactly this label, or all of them if it is None. Returns how many."""
        found = [reply for reply in self._open.values() if label is None or reply.label == label]
        for reply in found:
            reply.cancel("api")
        return len(found)

    def refuse(self) -> None:
        """From now on `submit` raises `Unavailable`; what is open goes on."""
        self.is_draining = True

    async def wait_idle(self, deadline_s: float) -> int:
        """Return when no request is open; those that still are after `deadline_s` fail with 503 `draining`.

        Returns how many these were.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            return self._break_off(self._open.values(), "deadline", _cut)
        return 0

    def _check_admission(self) -> None:
        if self.is_draining:
            raise _draining()
        if len(self._open) >= self._max_open:
            raise self._overloaded()

    def _overloaded(self) -> Overloaded:
        # Little's law: what is open is worked off in the mean time that a request stays open.
        wait_s = min(MAX_RETRY_S, max(1, round(self._mean_latency_s)))
        return Overloaded(f"{len(self._open)} requests are open and no more are taken; try again later", retry_after=wait_s)

    def _send(self, message: Tokenize) -> None:
        try:
            self._tokenizer.tell(message)
        except MailboxFull:
            raise self._overloaded() from None

    def _abort(self, request_id: int, cause: AbortCause) -> None:
        try:
            self._tokenizer.tell(Abort(request_id=request_id, cause=cause))
        except MailboxFull:  # without its abort the request would run for nobody, so try until there is room
            asyncio.get_running_loop().call_later(ABORT_RETRY_S, self._abort, request_id, cause)

    def _enter(self, reply: Reply) -> None:
        if not self._open:
            self.busy_since = reply.arrived
            self._idle.clear()
        self._open[reply.request_id] = reply
        if self._request_timeout_s is not None:
            loop = asyncio.get_running_loop()
            reply.deadline = loop.call_later(self._request_timeout_s, self._expire, reply)

    def _expire(self, reply: Reply) -> None:
        self._abort(reply.request_id, "deadline")
        self._fail(reply, DeadlineExceeded(f"the request did not end within {self._request_timeout_s:g} s"))

    def _cancel(self, reply: Reply, cause: AbortCause) -> None:
        self._abort(reply.request_id, cause)
        reply.push_abort()
        self._leave(reply, "aborted")

    def _break_off(self, replies: Iterable[Reply], cause: AbortCause, make_error: Callable[[], RequestError]) -> int:
        """Abort `replies` upstream and fail each with an exception of its own. Returns how many they were."""
        ending = list(replies)
        for reply in ending:
            self._abort(reply.request_id, cause)
            self._fail(reply, make_error())
        return len(ending)

    def _fail(self, reply: Reply, error: RequestError) -> None:
        reply.break_off(error)
        self._leave(reply, "failed")

    def _leave(self, reply: Reply, outcome: Outcome) -> None:
        """The one place where a reply ends."""
        reply.is_open = False
        del self._open[reply.request_id]
        if reply.deadline is not None:
            reply.deadline.cancel()
        if not self._open:
            self._idle.set()
        self._report(reply, outcome)

    def _report(self, reply: Reply, outcome: Outcome) -> None:
        e2e_s = self._clock.monotonic() - reply.arrived
        self._mean_latency_s += LATENCY_WEIGHT * (e2e_s - self._mean_latency_s)
        if not reply.is_counted:
            return
        stats = RequestStats(
            outcome=outcome,
            num_prompt_tokens=reply.last_row.num_prompt_tokens,
            num_completion_tokens=reply.last_row.num_completion_tokens,
            num_cached_tokens=reply.last_row.num_cached_tokens,
            is_streaming=reply.is_streaming,
            e2e_s=e2e_s,
            ttft_s=None if reply.first_row_at is None else reply.first_row_at - reply.arrived,
        )
        with contextlib.suppress(MailboxFull):  # statistics may be lost, requests may not
            self._metrics.tell(stats)


def _draining() -> Unavailable:
    return Unavailable("the server is shutting down and takes no new requests", code="draining", retry_after=RESTART_RETRY_S)


def _cut() -> Unavailable:
    return Unavailable("the server stopped before the request had ended", code="draining", retry_after=RESTART_RETRY_S)


def _lost() -> Unavailable:
    message = "the request was lost because a part of the server restarted; it is safe to send it again"
    return Unavailable(message, code="engine_restarting", retry_after=RESTART_RETRY_S)
