"""What must be true after every round of the event loop, and what must be left when all is over.

The pure states check themselves; here are the promises that no single actor can see: between scheduler and cache, between
cache and executor, and between the server and its clients. Names V1 … are those of the reliability notes.
"""

from __future__ import annotations

from collections import Counter

from runtime.actors.mailbox import Envelope
from runtime.assembly import CACHE, DETOKENIZER, HTTP, METRICS, SCHEDULER, Assembly
from runtime.caching.page_cache import PageCache
from runtime.config import Config
from runtime.errors import Failure
from runtime.messages import RequestFailed, RequestStats, ReservePages, StepPlan, TextBatch, joined_logprobs
from runtime.scheduling.state import Scheduling
from runtime.text.tokenizer import key_of
from tests.fakes.compiler import BROKEN_GRAMMAR, KILLED, REFUSAL, FakeCompiler
from tests.fakes.executor import hidden_state, logprobs_after
from tests.sim.audience import Client, Seat
from tests.sim.faults import CrashingSupervisor, FaultyExecutor
from tests.sim.oracle import Expected, Oracle
from tests.sim.scenario import Scenario

ABORT_WITHIN_S = 0.5
"""Virtual time that an abort may take through mailboxes that are late."""

OVERTAKES_PER_SLOT = 1
"""A request that was held back until its prefix was computed may come back when later ones are already on their way."""


class Violation(AssertionError):
    """A promise of the server does not hold."""


def demand(is_true: bool, text: str) -> None:
    if not is_true:
        raise Violation(text)


def _most_steps(scenario: Scenario) -> int:
    """A bound on the steps of a run: one for each token, and what retractions compute again."""
    context = scenario.limits.context_length
    return 100 + 3 * sum(context * len(script.params) for script in scenario.scripts)


class Inspector:
    """Looks at everything and changes nothing."""

    def __init__(
        self,
        scenario: Scenario,
        assembly: Assembly,
        supervisor: CrashingSupervisor,
        executor: FaultyExecutor,
        compiler: FakeCompiler,
    ) -> None:
        self._scenario = scenario
        self._assembly = assembly
        self._supervisor = supervisor
        self._executor = executor
        self._compiler = compiler
        self._unawaited_since: dict[str, float] = {}
        self._terminals: Counter[tuple[str, int]] = Counter()
        self._touched: set[str] = set()
        self._abandoned_at: dict[int, float] = {}
        self._reserved: set[int] = set()
        self._overtakes: Counter[int] = Counter()
        self._num_steps = 0
        self._num_request_stats = 0
        self._problem: str | None = None
        self._most_steps = _most_steps(scenario)
        executor.observe_plan = self.check_plan
        supervisor.report = self.report

    # -- while it runs -------------------------------------------------------------------------------------------------

    def observe(self, receiver: str, envelope: Envelope) -> None:
        """Sees each delivery before it is handled."""
        self._touched.add(receiver)
        if receiver == HTTP:
            self._check_terminals(envelope)
        elif receiver == CACHE and isinstance(envelope.message, ReservePages):
            self._check_order(envelope.message.request_id)
        elif receiver == METRICS:
            self._num_request_stats += isinstance(envelope.message, RequestStats)

    def report(self, problem: str) -> None:
        """Note what went wrong where it can not be raised; the next round raises it."""
        self._problem = self._problem or problem

    def check_round(self) -> None:
        """Called after each round of the loop; free if no message was handled in it. Raises `AssertionError`."""
        if self._problem is not None:
            raise Violation(self._problem)
        if not self._touched:
            return
        page_cache, scheduling = self.states()
        if page_cache is not None and CACHE in self._touched:
            page_cache.check()
            self._check_fences(page_cache)
            self._check_contents(page_cache)
        if scheduling is not None and SCHEDULER in self._touched:
            scheduling.check()
            self._check_abandoned(scheduling)
            self._check_compiled(scheduling)
        self._touched.clear()

    def check_plan(self, plan: StepPlan) -> None:
        """The token budget and the batch limits, as the executor sees them."""
        budget = self._scenario.config.scheduler.chunked_prefill_size or self._scenario.limits.budget_tokens
        num_tokens = sum(row.num_tokens for row in plan.rows)
        demand(budget == -1 or num_tokens <= budget, f"step {plan.step_id} has {num_tokens} tokens, the budget is {budget}")
        demand(len(plan.rows) <= self._scenario.limits.num_slots, f"step {plan.step_id} has more rows than there are slots")
        self._num_steps += 1
        demand(self._num_steps <= self._most_steps, f"{self._num_steps} steps for so little work: nothing gets on")
        most = 1 if self._scenario.config.scheduler.disable_overlap_schedule else 2
        demand(self._executor.num_pending < most, f"more than {most} steps are in flight")

    def states(self) -> tuple[PageCache | None, Scheduling | None]:
        """The pure states inside the two actors, if these live."""
        cache, scheduler = self._supervisor.cast.get(CACHE), self._supervisor.cast.get(SCHEDULER)
        return getattr(cache, "_page_cache", None), getattr(scheduler, "_state", None)

    def _check_abandoned(self, scheduling: Scheduling) -> None:
        """V1: a request that nobody waits for any more is soon gone."""
        now = self._assembly.parts.clock.monotonic()
        open_ids = self._assembly.replies._open.keys()
        self._abandoned_at = {
            request_id: self._abandoned_at.get(request_id, now)
            for request_id in scheduling.requests
            if request_id not in open_ids
        }
        for request_id, since_s in self._abandoned_at.items():
            demand(now - since_s <= ABORT_WITHIN_S, f"request {request_id} runs for nobody, since {since_s:.3f} s")

    def _check_compiled(self, scheduling: Scheduling) -> None:
        """V1 for grammars: what nobody waits for is soon not compiled any more."""
        now, awaited = self._assembly.parts.clock.monotonic(), scheduling.asked_grammars
        self._unawaited_since = {
            key: self._unawaited_since.get(key, now) for key in self._compiler.under_way if key not in awaited
        }
        for key, since_s in self._unawaited_since.items():
            demand(now - since_s <= ABORT_WITHIN_S, f"{key} is compiled for nobody, since {since_s:.3f} s")

    def _check_order(self, request_id: int) -> None:
        """V11: first come (ids are given in that order), first served, but for those that wait for a prefix."""
        if self._scenario.config.scheduler.schedule_policy != "fcfs":
            return
        scheduling = self.states()[1]
        if request_id in self._reserved or scheduling is None:  # it comes again after a retraction
            return
        self._reserved.add(request_id)
        for other, request in scheduling.requests.items():
            self._overtakes[other] += other < request_id and other not in self._reserved and request.is_queued
        most = OVERTAKES_PER_SLOT * self._scenario.limits.num_slots
        for overtaken, num_times in self._overtakes.items():
            if num_times > most:
                self.report(f"request {overtaken} was overtaken {num_times} times under fcfs")

    def _check_terminals(self, envelope: Envelope) -> None:
        """V4: no sender speaks of a request after it has said how it ended."""
        message = envelope.message
        if isinstance(message, RequestFailed):
            self._note_terminal(envelope.sender, message.request_id, is_terminal=True)
        elif isinstance(message, TextBatch):
            for row in message.rows:
                self._note_terminal(envelope.sender, row.request_id, is_terminal=row.finish is not None)

    def _note_terminal(self, sender: str, request_id: int, *, is_terminal: bool) -> None:
        key = (sender, request_id)
        if self._terminals[key]:
            self.report(f"the {sender} speaks of request {request_id} after its end")
        self._terminals[key] += is_terminal

    def _check_fences(self, page_cache: PageCache) -> None:
        """A page that a step in flight writes to is neither free nor anybody else's."""
        free = set(page_cache._pool._free)
        for step_id, pages in self._executor.page_writes.items():
            demand(not pages & free, f"pages {sorted(pages & free)} are free while step {step_id} writes to them")

    def _check_contents(self, page_cache: PageCache) -> None:
        """Every cached page holds the tokens that it is cached for, or a step in flight is about to write them."""
        kv, size = self._executor.kv, self._scenario.limits.page_size
        in_flight: set[int] = set().union(*self._executor.page_writes.values())
        for node in page_cache._tree.walk():
            for key, page in zip(node.keys, node.pages, strict=True):
                is_right = page in in_flight or all(kv.get((page, offset)) == key[offset] for offset in range(size))
                demand(is_right, f"page {page} is cached for tokens that it does not hold")

    # -- when all is over ----------------------------------------------------------------------------------------------

    def leftovers(self) -> str | None:
        """What an idle server must not have; None if it has nothing."""
        page_cache, scheduling = self.states()
        if page_cache is None or scheduling is None:
            return "an engine actor does not live"
        pool, report, replies = page_cache.state(), scheduling.report(), self._assembly.replies
        counts = {
            "open replies": replies.num_open,
            "running": report.num_running,
            "waiting": report.num_waiting,
            "steps in flight": report.num_in_flight_steps,
            "leases": pool.num_leases,
            "leased pages": pool.num_leased_pages,
            "fenced pages": pool.num_fenced_pages,
            "pages that are neither free nor cached": pool.num_pages - pool.num_free_pages - pool.num_cached_pages,
            "sequences in the detokenizer": len(getattr(self._supervisor.cast[DETOKENIZER], "_sequences", ())),
            "grammars being compiled": len(self._compiler.under_way),
            "watched prefixes": len(page_cache._watch),
            "messages on their way": sum(len(mailbox) for mailbox in self._supervisor._mailboxes.values()),
        }
        left = {name: count for name, count in counts.items() if count}
        return None if not left else "left behind: " + ", ".join(f"{count} {name}" for name, count in left.items())

    def check_counts(self) -> None:
        """V6, once all is over: each request was counted once, and the gauges are back at 0."""
        num_opened = next(self._assembly.replies._request_ids) - 1
        demand(self._num_request_stats == num_opened, f"{num_opened} requests, {self._num_request_stats} of them counted")
        if any(crash.name == METRICS for crash in self._scenario.crashes):
            return  # the last report may be lost
        step = self._assembly.parts.registry._step
        assert step is not None, "the engine did not report its start"
        gauges = (step.num_running, step.num_queued, step.num_used_tokens)
        demand(gauges == (0, 0, 0), f"an idle server reports {gauges} running, queued, used tokens")


def _is_broken(seat: Seat) -> bool:
    return seat.script.grammar is not None and seat.script.grammar.source == BROKEN_GRAMMAR


class Judge:
    """Compares what each client got with what the oracle says, and accepts only the failures that have a reason."""

    def __init__(self, scenario: Scenario, oracle: Oracle, compiler: FakeCompiler) -> None:
        self._scenario = scenario
        self._compiler = compiler
        self._config: Config = scenario.config
        self._oracle = oracle

    def judge(self, client: Client) -> None:
        """Raises `Violation`."""
        for seat in client.seats:
            script = seat.script
            expected = self._oracle.expect(script.prompt, script.params[seat.index], script.text, script.grammar)
            try:
                self._judge(seat, expected, client)
            except Violation as error:
                raise Violation(f"{error}\n  seat: {seat}\n  expected: {expected}") from None

    def _judge(self, seat: Seat, expected: Expected, client: Client) -> None:
        demand(len(seat.ends) == 1, f"a request ended {len(seat.ends)} times: {seat.ends}")
        self._check_rows(seat, expected)
        match seat.ends[0]:
            case "finished":
                self._check_finished(seat, expected)
            case "aborted":
                demand(client.has_left or self._scenario.aborts, "a request was aborted that nobody left")
            case "failed" | "refused":
                self._check_failed(seat)

    def _check_rows(self, seat: Seat, expected: Expected) -> None:
        num_tokens = 0
        for row in seat.rows:
            num_tokens += len(row.token_ids)
            demand(
                row.num_completion_tokens == num_tokens, f"{row.num_completion_tokens} tokens are counted, {num_tokens} came"
            )
        token_ids = seat.token_ids
        demand(token_ids == expected.token_ids[: len(token_ids)], "the tokens differ from those of the request alone")
        demand(expected.text.startswith(seat.text), "the text differs from that of the request alone")
        self._check_extras(seat, expected.prompt_ids)

    def _check_extras(self, seat: Seat, prompt_ids: tuple[int, ...]) -> None:
        """Log probabilities and hidden states come once, with their tokens, and are those of the request alone."""
        script, ids, width = seat.script, (*prompt_ids, *seat.token_ids), self._scenario.limits.vocab_size
        has_said = bool(seat.token_ids) or any(row.finish and row.finish.type != "abort" for row in seat.rows)
        options, num_prompt = script.logprobs, len(prompt_ids)
        found = [row.logprobs for row in seat.rows if row.logprobs is not None]
        found_prompt = [row.prompt_logprobs for row in seat.rows if row.prompt_logprobs is not None]
        expected, expected_prompt = [], []
        if options is not None:
            expected = [logprobs_after(ids[:i], ids[i], options, width) for i in range(num_prompt, len(ids))]
        if options is not None and options.prompt_start is not None and has_said:
            first = options.prompt_start
            expected_prompt = [logprobs_after(ids[:i], ids[i], options, width) for i in range(first, num_prompt)]
        demand(joined_logprobs(found) == joined_logprobs(expected), "log probabilities differ from those of the request alone")
        demand(joined_logprobs(found_prompt) == joined_logprobs(expected_prompt), "log probabilities of the prompt differ")
        states = [state for row in seat.rows for state in row.hidden_states or ()]
        num_states = max(len(ids) - 1, num_prompt) if script.returns_hidden_states and has_said else 0
        demand(states == [hidden_state(ids[: i + 1]) for i in range(num_states)], "hidden states differ")

    def _check_finished(self, seat: Seat, expected: Expected) -> None:
        last = seat.rows[-1]
        is_servable = expected.refusal is None and not _is_broken(seat)
        demand(is_servable, "a request finished that can not be served")
        demand(seat.token_ids == expected.token_ids, "tokens are missing")
        demand(seat.text == expected.text, "text is missing")
        demand(last.finish == expected.finish, f"the request ended with {last.finish}, not {expected.finish}")
        demand(last.num_prompt_tokens == len(expected.prompt_ids), "the prompt tokens are miscounted")
        demand(0 <= last.num_cached_tokens < len(expected.prompt_ids), "the cached tokens are miscounted")

    def _check_failed(self, seat: Seat) -> None:
        failure = seat.failure
        assert failure is not None
        demand(self._is_excused(failure, seat), f"a request failed without a reason: {failure}")

    def _is_excused(self, failure: Failure, seat: Seat) -> bool:
        script = seat.script
        expected = [self._oracle.expect(script.prompt, params, script.text, script.grammar) for params in script.params]
        match failure.code:
            case "context_length_exceeded":
                return any(each.refusal == failure.code for each in expected)
            case "kv_cache_exhausted":
                return any(each.may_starve for each in expected)
            case "queue_full":
                return self._config.scheduler.max_queued_requests is not None
            case "deadline_exceeded":
                return seat.ended_s - seat.sent_s >= self._config.http.request_timeout - 1e-6
            case REFUSAL.code:
                return _is_broken(seat)
            case KILLED.code:
                return self._was_compiler_killed(seat)
            case "draining":
                return self._scenario.drain is not None and seat.ended_s >= self._scenario.drain.at_s
            case "engine_restarting":
                return not self._scenario.is_calm
            case _:
                return failure.status == 500 and not self._scenario.is_calm

    def _was_compiler_killed(self, seat: Seat) -> bool:
        """While the request was there, or so shortly before that its answer was on its way."""
        assert seat.script.grammar is not None
        failed_at_s = self._compiler.failed_at_s.get(key_of(seat.script.grammar), ())
        return any(seat.sent_s - ABORT_WITHIN_S <= at_s <= seat.ended_s for at_s in failed_at_s)
