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
from runtime.errors import ConfigError, DeviceLost, EngineError, Failure, InternalError, Overloaded, RankLost, RequestError
from runtime.executor.port import ExecutorLimits
from runtime.messages import (
    Abort,
    Admit,
    CommandRan,
    ContinueGeneration,
    EngineCommand,
    Finish,
    GrammarFailed,
    GrammarReady,
    PagesDenied,
    PagesGranted,
    PauseGeneration,
    PrefixMatched,
    ReleaseMemory,
    RequestFailed,
    ResumeMemory,
    SchedulerState,
    StepDone,
    StepFailed,
    StepSettled,
    UpdateWeights,
)
from runtime.scheduling.admission import Admission
from runtime.scheduling.batching import Batch, Step
from runtime.scheduling.commands import Commands
from runtime.scheduling.effects import Effect, Outbox
from runtime.scheduling.entry import QueueLimit, granted_tokens
from runtime.scheduling.grammars import GrammarWaits
from runtime.scheduling.invariants import check_invariants
from runtime.scheduling.ledger import PageLedger
from runtime.scheduling.policy import Policy
from runtime.scheduling.request import Request, Stage
from runtime.scheduling.results import Results
from runtime.scheduling.statistics import Statistics
from runtime.scheduling.stopping import stop_ids

NO_BUDGET_LIMIT = 2**62
LOSSES: dict[str, type[EngineError]] = {"engine": EngineError, "rank": RankLost, "device": DeviceLost}
STEP_FAILED = InternalError("the engine failed to compute this request").failure


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
        self.batch = Batch(num_slots, _budget(config.chunked_prefill_size, limits))
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
        self._grammars = GrammarWaits(self._out)
        self.commands = Commands(self._out)
        self._results = Results(self._out, self.ledger, self.admission, self._end, page_size=limits.page_size)
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
        if self.commands.needs_empty_batch:
            self._retract_all()
        self._settle()
        self._advance_commands()
        if not self.commands.is_holding:
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
            is_held=self.commands.is_holding,
        )

    def check(self) -> None:
        """Raise `AssertionError` if an invariant does not hold; for tests and the simulator."""
        check_invariants(self)

    def awaits_grammar(self, request: Request) -> bool:
        return self._grammars.is_awaited_by(request)

    @property
    def asked_grammars(self) -> dict[str, int]:
        """Keys that somebody waits for, and the request that they were asked for."""
        return self._grammars.asked

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
        if message.grammar_key is None or message.grammar is None:
            self.admission.enqueue(request)
        else:
            self._grammars.wait(request, message.grammar_key, message.grammar)

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
        for request in self._grammars.answered(message):
            self.admission.enqueue(request)

    def grammar_failed(self, message: GrammarFailed) -> None:
        for request in self._grammars.answered(message):
            self._fail(request, message.failure)

    def _fail(self, request: Request, failure: Failure) -> None:
        self._out.fail(request, failure)
        self._end(request)

    def _end(self, request: Request) -> None:
        del self.requests[request.request_id]
        stage, request.stage = request.stage, Stage.ENDED
        if stage is Stage.RUNNING:
            self._vacate(request)
        self.admission.ended(request, stage)
        self._grammars.leave(request)
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

    # -- commands ------------------------------------------------------------------------------------------------------

    def command(self, command_id: int, command: EngineCommand) -> None:
        """Begin a command. Its answer is an effect for the asker, when it has run."""
        match command:
            case PauseGeneration(mode=mode):
                self.commands.begin_pause(command_id, mode)
                if mode == "abort":
                    self._abort_all(list(self.requests.values()))
                elif mode == "retract":
                    self._retract_all()
            case ContinueGeneration():
                self.commands.end_pause(command_id)
            case UpdateWeights() | ReleaseMemory() | ResumeMemory():
                self.commands.enqueue(command_id, command, has_requests=bool(self.requests))
                if isinstance(command, UpdateWeights) and command.aborts_all:
                    self._abort_all([request for request in self.requests.values() if request.has_begun])
            case _:
                self.commands.run(command_id, command)

    def command_ran(self, message: CommandRan) -> None:
        self.commands.ran(message)

    def _advance_commands(self) -> None:
        has_begun = self.commands.pause is None and any(request.has_begun for request in self.requests.values())
        is_quiet = self.ledger.is_quiet and not (self.batch or self.admission.reserving or self.in_flight)
        self.commands.advance(is_empty=is_quiet and not has_begun, has_steps=bool(self.in_flight))
        self.admission.is_closed = self.commands.is_draining

    def _abort_all(self, requests: list[Request]) -> None:
        for request in requests:
            self.abort(Abort(request_id=request.request_id, cause="api"))

    def _retract_all(self) -> None:
        for request in self.batch.requests():
            self._retract(request)

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
        self._results.hand_out(step, message)
        self.admission.estimate.step()
        self._out.flush_text(message.step_id)
        num_grammar_queued = self._grammars.num_waiting()
        stats = self._statistics.step(step, message, num_queued=self.num_waiting, num_grammar_queued=num_grammar_queued)
        self._out.send("metrics", stats)

    def step_failed(self, message: StepFailed) -> None:
        """The requests of the step fail. Raises `EngineError` if the engine is lost, or a final one if that is for good."""
        if message.is_fatal:
            raise LOSSES[message.lost](f"step {message.step_id} failed: {message.reason}")
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

    def _report_idle(self) -> None:
        stats = self._statistics.idle(not (self.requests or self.in_flight) and self.ledger.is_quiet)
        if stats is not None:
            self._out.send("metrics", stats)


def _budget(chunked_prefill_size: int | None, limits: ExecutorLimits) -> int:
    if chunked_prefill_size is None:
        return limits.budget_tokens
    if chunked_prefill_size == -1:
        return NO_BUDGET_LIMIT
    if chunked_prefill_size < 1:
        raise ConfigError(f"--chunked-prefill-size must be positive or -1, not {chunked_prefill_size}")
    return chunked_prefill_size
