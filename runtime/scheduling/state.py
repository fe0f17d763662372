"""The scheduler as a pure state machine: a message in, effects out. No I/O, no clock, no task.

Owns every admitted request until its one terminal message. A request is WAITING (queued, held back behind a leader of its
prefix, or waiting for a grammar), RESERVING (pages asked), RUNNING (lease and slot), and then ended; a retraction takes it
from RUNNING back to WAITING with its tokens kept. The shell calls `advance` after each batch of messages, and that is where
steps are planned. Late and unknown answers are normal: they are counted and have no effect, except that pages which come too
late are given back.
"""

from __future__ import annotations

from collections import deque

from runtime.config import SchedulerConfig
from runtime.errors import ConfigError, EngineError, Failure, InternalError, Overloaded, RequestError
from runtime.executor.port import ExecutorLimits
from runtime.messages import (
    GRAMMAR_DROPPED,
    INVALID_TOKEN,
    Abort,
    Admit,
    Finish,
    GrammarFailed,
    GrammarReady,
    PagesDenied,
    PagesGranted,
    PrefixMatched,
    RequestFailed,
    RowExtra,
    SchedulerState,
    StepDone,
    StepFailed,
    StepRow,
    StepSettled,
)
from runtime.scheduling.admission import Admission
from runtime.scheduling.batching import Batch, Step
from runtime.scheduling.effects import Effect, Outbox
from runtime.scheduling.entry import QueueLimit, granted_tokens
from runtime.scheduling.grammars import GrammarAnswers
from runtime.scheduling.invariants import check_invariants
from runtime.scheduling.ledger import PageLedger
from runtime.scheduling.policy import Policy
from runtime.scheduling.request import Request, Stage
from runtime.scheduling.statistics import Statistics
from runtime.scheduling.stopping import stop_ids, take_tokens

NO_BUDGET_LIMIT = 2**62
STEP_FAILED = InternalError("the engine failed to compute this request").failure
INVALID_NUMBERS = InternalError("the model produced invalid numbers for this request").failure


class Scheduling:
    """`shares_prefixes` is False when the cache keeps nothing, so that nobody waits for pages that are never shared."""

    def __init__(
        self,
        limits: ExecutorLimits,
        config: SchedulerConfig,
        eos_token_ids: tuple[int, ...],
        policy: Policy,
        *,
        shares_prefixes: bool = True,
    ) -> None:
        self.limits = limits
        self.requests: dict[int, Request] = {}
        self.in_flight: deque[Step] = deque()
        self.max_in_flight = 1 if config.disable_overlap_schedule else 2
        num_slots = min(limits.num_slots, config.max_running_requests or limits.num_slots)
        self.batch = Batch(num_slots, _budget(config.chunked_prefill_size))
        self.ledger = PageLedger(limits.num_pages)
        self._out = Outbox()
        self.admission = Admission(
            policy,
            self.batch,
            self.ledger,
            self._out,
            page_size=limits.page_size,
            conservativeness=config.schedule_conservativeness,
            shares_prefixes=shares_prefixes,
        )
        self.num_steps = 0
        self.num_late_messages = 0
        self._policy = policy
        self._eos_token_ids = frozenset(eos_token_ids)
        self._grammars = GrammarAnswers()
        self._queue_limit = QueueLimit(config.max_queued_requests)
        self._planned_step = 0
        self._retired_step = 0
        self._num_arrivals = 0
        self._statistics = Statistics(limits, self.batch, self.ledger)
        self._now = 0.0

    # -- what the shell needs ------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """Messages to send, in order; each is handed out once."""
        return self._out.take()

    def advance(self, now: float) -> None:
        """Do what is due after a batch of messages: settle, plan steps, admit. `now` is monotonic, in seconds."""
        self._now = now
        self._settle()
        self.admission.admit_waiting(now)
        self._plan()
        self._out.flush_text(self._retired_step)
        self._report_idle()

    def report(self) -> SchedulerState:
        return SchedulerState(
            num_steps=self.num_steps,
            num_waiting=self.num_waiting,
            num_running=len(self.batch),
            num_in_flight_steps=len(self.in_flight),
        )

    def check(self) -> None:
        """Raise `AssertionError` if an invariant does not hold; for tests and the simulator."""
        check_invariants(self)

    def awaits_grammar(self, request: Request) -> bool:
        return self._grammars.is_awaited_by(request)

    @property
    def num_waiting(self) -> int:
        return len(self.requests) - len(self.admission.reserving) - len(self.batch)

    # -- requests come and go ------------------------------------------------------------------------------------------

    def admit(self, message: Admit, now: float) -> None:
        """Take a request in, or refuse it with `RequestFailed`."""
        self._now = now
        try:
            self._queue_limit.check(self.num_waiting, now)
            max_new_tokens = granted_tokens(message, self.limits)
        except RequestError as error:
            self._out.send("http", RequestFailed(request_id=message.request_id, failure=error.failure))
            return
        request = Request(
            message,
            arrival=self._num_arrivals,
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids(message.params, self._eos_token_ids),
            page_size=self.limits.page_size,
        )
        self._num_arrivals += 1
        self.requests[request.request_id] = request
        self._await_grammar(request, message.grammar_key)

    def abort(self, message: Abort) -> None:
        """End a request wherever it is.

        Only an abort through the API still wants a result. Http has answered a disconnect, a deadline or a restart already,
        so the Detokenizer just forgets the sequence; after a stop string it has done so itself.
        """
        request = self.requests.get(message.request_id)
        if request is None:
            self.num_late_messages += 1
            return
        if message.cause == "api":
            self._out.add_row(request, (), Finish("abort"))
        elif message.cause != "stop_string":
            self._out.close_text(request)
        self._end(request)

    def grammar_ready(self, message: GrammarReady) -> None:
        for request in self._grammars.answer(message.key, None):
            self.admission.enqueue(request)

    def grammar_failed(self, message: GrammarFailed) -> None:
        for request in self._grammars.answer(message.key, message.failure):
            self._fail(request, message.failure)

    def _await_grammar(self, request: Request, key: str | None) -> None:
        if key is None:
            self.admission.enqueue(request)
        elif not self._grammars.is_known(key):
            self._grammars.wait(request, key)
        elif (failure := self._grammars[key]) is not None:
            self._fail(request, failure)
        else:
            self.admission.enqueue(request)

    def _fail(self, request: Request, failure: Failure) -> None:
        self._out.fail(request, failure)
        self._end(request)

    def _end(self, request: Request) -> None:
        del self.requests[request.request_id]
        stage, request.stage = request.stage, Stage.ENDED
        if stage is Stage.RUNNING:
            self._vacate(request)
        self.admission.ended(request, stage)
        self._queue_limit.ended(self._now)

    # -- pages ---------------------------------------------------------------------------------------------------------

    def granted(self, message: PagesGranted) -> None:
        """A reserved request starts to run; if it has ended in the meantime its pages go back."""
        if self.admission.granted(message) is None:
            self.num_late_messages += 1

    def denied(self, message: PagesDenied) -> None:
        """Back to the front of the queue, until pages come back; alone in an empty pool there is nothing to wait for."""
        request = self.admission.denied(message)
        if request is None:
            self.num_late_messages += 1
        elif self.admission.is_pool_empty:
            self._fail(request, self._exhausted())

    def settled(self, message: StepSettled) -> None:
        """Grown requests go on; if one got nothing and nothing will come back by itself, another has to give way."""
        self.ledger.settled(message)
        if self.ledger.stalled and self.ledger.is_quiet and not self.admission.reserving:
            self._relieve()

    def matched(self, message: PrefixMatched) -> None:
        self.num_late_messages += self.admission.matched(message)

    def _settle(self) -> None:
        message = self.ledger.settle(self._planned_step, self._retired_step)
        if message is not None:
            self._out.send("cache", message)

    def _relieve(self) -> None:
        """Retract until what is freed may do for those that are stalled.

        One that runs alone gives way too: it finds its own pages again, and if it does not fit even so, it is denied and fails.
        """
        num_freed_pages = 0
        while self.ledger.num_stalled_pages > num_freed_pages:
            victim = self._policy.victim(self.batch.requests())
            num_freed_pages += victim.num_own_pages
            self._retract(victim)

    def _retract(self, request: Request) -> None:
        """Its rows in flight still bring tokens, so it is not admitted again before they have."""
        self._vacate(request)
        self.admission.retracted(request)
        self._statistics.num_retracted += 1

    def _vacate(self, request: Request) -> None:
        """Out of the batch. A row in flight may be left: its step fences the pages."""
        self.batch.leave(request)
        self.ledger.close(request)

    def _exhausted(self) -> Failure:
        num_tokens = self.limits.num_pages * self.limits.page_size
        return Overloaded(
            f"the request needs more than the {num_tokens} tokens of the KV cache: raise --max-total-tokens",
            code="kv_cache_exhausted",
        ).failure

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Keep the executor busy.

        A step waits for pages that are asked for: an answer is a mailbox away, and a step that goes out without some requests
        costs as much as one with them.
        """
        while len(self.in_flight) < self.max_in_flight and not (self.ledger.wanting or self.admission.reserving):
            step = self.batch.plan(self._planned_step + 1)
            if step is None:
                return
            self._planned_step += 1
            step.planned_at = self._now
            self.in_flight.append(step)
            self._out.send("executor", step.plan)
            for request in step.wanting:
                self.ledger.want(request)
            self._settle()

    def step_done(self, message: StepDone) -> None:
        """Hand out the step's tokens. Raises `EngineError` if the executor broke the port's contract."""
        step = self._retire(message.step_id)
        if step is None:
            return
        if len(message.token_ids) != step.num_samples:
            raise EngineError(f"step {message.step_id} returned {len(message.token_ids)} tokens, not {step.num_samples}")
        token_ids = iter(message.token_ids)
        extras = {extra.row: extra for extra in message.extras}
        for index, (row, request) in enumerate(zip(step.plan.rows, step.requests, strict=True)):
            token_id = next(token_ids) if row.sample else None
            request.num_in_flight_rows -= 1
            if request.stage is Stage.ENDED:
                continue
            if request.stage is Stage.RUNNING:
                request.num_computed_tokens = row.start + row.num_tokens
                if row.start < request.num_publishable_tokens:
                    self._publish(request)
            self._hand_out(request, row, token_id, extras.get(index))
        self.admission.estimate.step()
        self._out.flush_text(message.step_id)
        num_grammar_queued = self._grammars.num_waiting()
        stats = self._statistics.step(step, message, num_queued=self.num_waiting, num_grammar_queued=num_grammar_queued)
        self._out.send("metrics", stats)

    def step_failed(self, message: StepFailed) -> None:
        """The requests of the step fail. Raises `EngineError` if the engine is lost."""
        if message.is_fatal:
            raise EngineError(f"step {message.step_id} failed: {message.reason}")
        step = self._retire(message.step_id)
        for request in step.requests if step is not None else ():
            if request.stage is not Stage.ENDED:
                self._fail(request, STEP_FAILED)

    def _retire(self, step_id: int) -> Step | None:
        if not self.in_flight or self.in_flight[0].plan.step_id != step_id:
            self.num_late_messages += 1
            return None
        self._retired_step = step_id
        self.num_steps += 1
        return self.in_flight.popleft()

    def _publish(self, request: Request) -> None:
        size = self.limits.page_size
        num_tokens = min(request.num_computed_tokens, request.num_publishable_tokens) // size * size
        if num_tokens > request.num_published_tokens:
            request.num_published_tokens = num_tokens
            self.ledger.publish(request)
            self.admission.lead(request, num_tokens)

    def _hand_out(self, request: Request, row: StepRow, token_id: int | None, extra: RowExtra | None) -> None:
        """What a row brought to a request that is still open."""
        if extra is not None and extra.failure is not None:
            if extra.failure.code == GRAMMAR_DROPPED:
                self._grammars.forget(request.grammar_key)
            self._fail(request, extra.failure)
            return
        if extra is not None and request.gathering is not None:
            request.gathering.add(row, extra)
        if token_id is not None:
            self._accept(request, row.start + row.num_tokens, token_id, extra)
        elif request.max_new_tokens == 0:
            self._end_without_output(request)

    def _accept(self, request: Request, position: int, token_id: int, extra: RowExtra | None) -> None:
        """Add the result at `position`, unless the row before brought it already, as forced by the grammar."""
        if token_id == INVALID_TOKEN:
            self._fail(request, INVALID_NUMBERS)
            return
        if position < request.num_known_tokens:
            if request.output_ids[position - request.num_prompt_tokens] != token_id:
                raise EngineError(f"the executor gave token {token_id} where the grammar had forced another")
            return
        token_ids, finish = take_tokens(request, token_id, extra)
        self._out.add_row(request, token_ids, finish)
        if finish is not None:
            self._end(request)
        elif len(token_ids) > 1:
            self._lengthen(request)

    def _lengthen(self, request: Request) -> None:
        """Tokens were forced: they are known before they are planned, and may need pages."""
        if request.stage is Stage.RUNNING:
            request.length = max(request.length, request.num_known_tokens)
            if request.length > request.capacity_tokens:
                self.ledger.want(request)

    def _end_without_output(self, request: Request) -> None:
        if request.num_computed_tokens == request.num_prompt_tokens:
            self._out.add_row(request, (), Finish("length", length=0))
            self._end(request)

    def _report_idle(self) -> None:
        stats = self._statistics.idle(not (self.requests or self.in_flight) and self.ledger.is_quiet)
        if stats is not None:
            self._out.send("metrics", stats)


def _budget(chunked_prefill_size: int) -> int:
    if chunked_prefill_size == -1:
        return NO_BUDGET_LIMIT
    if chunked_prefill_size < 1:
        raise ConfigError(f"--chunked-prefill-size must be positive or -1, not {chunked_prefill_size}")
    return chunked_prefill_size
