"""A scheduler with everything around it on one thread: the real page cache, the fake executor, and recorded outputs.

Nothing moves by itself. A test delivers messages one by one, or calls `drain`, which goes on until nothing is under way.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from random import Random

from runtime.caching.page_cache import PageCache
from runtime.config import SchedulerConfig
from runtime.errors import Failure
from runtime.executor.port import ExecutorLimits
from runtime.messages import (
    Abort,
    AbortCause,
    Admit,
    CommandRan,
    CompileGrammar,
    Done,
    EngineCommand,
    Finish,
    FlushCache,
    GrammarFailed,
    GrammarReady,
    GrammarUnwanted,
    Message,
    PagesDenied,
    PagesGranted,
    PrefixMatched,
    Refused,
    RequestFailed,
    ReservePages,
    RunCommand,
    SettleStep,
    StepDone,
    StepFailed,
    StepPlan,
    StepSettled,
    StepStats,
    TextOpen,
    TokenBatch,
    TokenLogprobs,
    TokenRow,
    UnwatchPrefix,
    WatchPrefix,
)
from runtime.params import GrammarSpec, LogprobOptions, SamplingParams, TextOptions
from runtime.scheduling.effects import Effect
from runtime.scheduling.policy import load_policy
from runtime.scheduling.request import Request
from runtime.scheduling.state import Scheduling
from runtime.scheduling.stopping import stop_ids
from tests.fakes.executor import FakeExecutor

MOST_ROUNDS = 5000
"""More than any test needs: beyond this `drain` reports a livelock."""


def make_limits(
    *, num_pages: int = 64, page_size: int = 4, num_slots: int = 4, context_length: int = 64, vocab_size: int = 50
) -> ExecutorLimits:
    return ExecutorLimits(
        num_pages=num_pages,
        page_size=page_size,
        num_slots=num_slots,
        context_length=context_length,
        vocab_size=vocab_size,
    )


def make_admit(
    request_id: int,
    token_ids: Sequence[int],
    *,
    max_new_tokens: int | None = 4,
    min_new_tokens: int = 0,
    stop_token_ids: tuple[int, ...] = (),
    ignore_eos: bool = False,
    priority: int = 0,
    grammar_key: str | None = None,
    logprobs: LogprobOptions | None = None,
    returns_hidden_states: bool = False,
) -> Admit:
    params = SamplingParams(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        stop_token_ids=stop_token_ids,
        ignore_eos=ignore_eos,
    )
    return Admit(
        request_id=request_id,
        token_ids=tuple(token_ids),
        params=params,
        text=TextOptions(),
        priority=priority,
        grammar_key=grammar_key,
        grammar=grammar_of(grammar_key),
        logprobs=logprobs,
        returns_hidden_states=returns_hidden_states,
    )


def grammar_of(key: str | None) -> GrammarSpec | None:
    return None if key is None else GrammarSpec("regex", key)


def make_request(
    request_id: int, token_ids: Sequence[int], *, page_size: int = 4, eos: tuple[int, ...] = (), **params: object
) -> Request:
    admit = make_admit(request_id, token_ids, **params)  # type: ignore[arg-type]
    return Request(
        admit,
        arrival=request_id,
        max_new_tokens=4 if admit.params.max_new_tokens is None else admit.params.max_new_tokens,
        stop_ids=stop_ids(admit.params, frozenset(eos)),
        page_size=page_size,
    )


class Outputs:
    """What left the scheduler towards the client, held to the rules of the messages."""

    def __init__(self) -> None:
        self.token_ids: dict[int, list[int]] = {}
        self.opened: dict[int, TextOpen] = {}
        self.closed: set[int] = set()
        self.finishes: dict[int, Finish] = {}
        self.failures: dict[int, Failure] = {}
        self.num_terminals: Counter[int] = Counter()
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
        self.hidden_states: dict[int, list[tuple[float, ...]]] = {}

    def text(self, batch: TokenBatch) -> None:
        for opened in batch.opens:
            assert opened.request_id not in self.opened, "a sequence is opened twice"
            self.opened[opened.request_id] = opened
        for row in batch.rows:
            assert row.request_id in self.opened, "a row comes before its sequence is opened"
            assert row.request_id not in self.closed, "a row comes after the sequence was closed"
            assert row.request_id not in self.finishes, "a row comes after the last one"
            self.token_ids.setdefault(row.request_id, []).extend(row.token_ids)
            self._note_extras(row)
            if row.finish is not None:
                self.finishes[row.request_id] = row.finish
                self.num_terminals[row.request_id] += 1
        for request_id in batch.closes:
            assert request_id in self.opened, "a sequence is closed that is not open"
            assert request_id not in self.closed, "a sequence is closed twice"
            assert request_id not in self.finishes, "a sequence is closed after its last row"
            self.closed.add(request_id)

    def _note_extras(self, row: TokenRow) -> None:
        if row.logprobs is not None:
            assert row.logprobs.token_ids == row.token_ids, "one entry per token"
            self.logprobs.setdefault(row.request_id, []).append(row.logprobs)
        if row.prompt_logprobs is not None:
            self.prompt_logprobs.setdefault(row.request_id, []).append(row.prompt_logprobs)
        self.hidden_states.setdefault(row.request_id, []).extend(row.hidden_states or ())

    def failed(self, message: RequestFailed) -> None:
        self.failures[message.request_id] = message.failure
        self.num_terminals[message.request_id] += 1

    def still_open(self) -> set[int]:
        """Sequences that the detokenizer would keep for ever."""
        return self.opened.keys() - self.closed - self.finishes.keys()


class World:
    def __init__(
        self,
        limits: ExecutorLimits | None = None,
        *,
        eos: tuple[int, ...] = (),
        policy: str = "fcfs",
        shares_prefixes: bool = True,
        **config: object,
    ) -> None:
        self.limits = limits or make_limits()
        self.cache = PageCache(self.limits.num_pages, self.limits.page_size, disable_radix_cache=not shares_prefixes)
        self.config = SchedulerConfig(**config)  # type: ignore[arg-type]
        self.state = Scheduling(self.limits, self.config, eos, load_policy(policy, Random(7)), shares_prefixes=shares_prefixes)
        self.executor = FakeExecutor(self.limits)
        self.executor.start(self._post)
        self.outputs = Outputs()
        self.to_cache: deque[Message] = deque()
        self.from_cache: deque[Message] = deque()
        self.results: deque[StepDone | StepFailed | CommandRan] = deque()
        self.plans: list[StepPlan] = []
        self.stats: list[StepStats] = []
        self.sent_to_cache: list[Message] = []
        self.now = 0.0
        self.num_commands = 0
        self.answers: dict[int, Done | Refused] = {}
        self.num_unanswered_settles = 0
        self.ready_grammars: set[str] = set()
        """Keys that are answered by themselves; the others are up to the test."""
        self.compiling: dict[str, int] = {}
        """By key, the request that it was asked for."""
        self.from_grammar: deque[GrammarReady] = deque()

    # -- one event each ------------------------------------------------------------------------------------------------

    def admit(self, request_id: int, token_ids: Sequence[int], **params: object) -> None:
        self.state.admit(make_admit(request_id, token_ids, **params), self.now)  # type: ignore[arg-type]

    def abort(self, request_id: int, cause: AbortCause = "disconnect") -> None:
        self.state.abort(Abort(request_id=request_id, cause=cause))

    def order(self, command: EngineCommand) -> int:
        self.num_commands += 1
        self.state.command(self.num_commands, command)
        return self.num_commands

    def advance(self) -> None:
        self.now += 0.01
        self.state.advance(self.now)
        for effect in self.state.take_effects():
            self._route(effect)
        self.state.check()
        asked = self.compiling | {message.key: message.request_id for message in self.from_grammar}
        assert self.state.asked_grammars == asked, "compiled is not what is waited for"

    def hear_grammar(self) -> bool:
        """The scheduler hears of a grammar that is ready."""
        if not self.from_grammar:
            return False
        self.state.grammar_ready(self.from_grammar.popleft())
        return True

    def answer_grammar(self, key: str, failure: Failure | None = None) -> None:
        """The scheduler hears of a grammar that is being compiled, or late of one that nobody waits for."""
        request_id = self.compiling.pop(key, -1)
        if failure is None:
            self.state.grammar_ready(GrammarReady(request_id=request_id, key=key))
        else:
            self.state.grammar_failed(GrammarFailed(request_id=request_id, key=key, failure=failure))

    def serve_cache(self) -> bool:
        """The cache handles one message."""
        if not self.to_cache:
            return False
        match self.to_cache.popleft():
            case ReservePages() as message:
                self.from_cache.append(self.cache.reserve(message.request_id, message.token_ids, message.max_cached_tokens))
            case SettleStep() as message:
                self.from_cache.append(self.cache.settle(message))
            case WatchPrefix() as message:
                self.cache.watch(message.request_id, message.token_ids)
            case UnwatchPrefix() as message:
                self.cache.unwatch(message.request_id)
            case FlushCache():
                self.cache.flush()
        if matches := self.cache.changed_matches():
            self.from_cache.append(PrefixMatched(matches=matches))
        self.cache.check()
        return True

    def hear_cache(self) -> bool:
        """The scheduler handles one answer of the cache."""
        if not self.from_cache:
            return False
        match self.from_cache.popleft():
            case PagesGranted() as message:
                self.state.granted(message)
            case PagesDenied() as message:
                self.state.denied(message)
            case StepSettled() as message:
                self.num_unanswered_settles -= 1
                self.state.settled(message)
            case PrefixMatched() as message:
                self.state.matched(message)
        return True

    def run_step(self) -> bool:
        """The executor runs its oldest plan; the result is under way."""
        return self.executor.step() is not None

    def hear_result(self) -> bool:
        """The scheduler handles one result."""
        if not self.results:
            return False
        match self.results.popleft():
            case StepDone() as message:
                self.state.step_done(message)
            case StepFailed() as message:
                self.state.step_failed(message)
            case CommandRan() as message:
                self.state.command_ran(message)
        return True

    # -- many events ---------------------------------------------------------------------------------------------------

    def talk_to_cache(self) -> None:
        """Scheduler and cache go on until they have nothing to say; no step ends."""
        for _ in range(MOST_ROUNDS):
            self.advance()
            if not (self.to_cache or self.from_cache or self.from_grammar):
                return
            while self.hear_grammar():
                pass
            while self.serve_cache():
                pass
            while self.hear_cache():
                pass
        raise AssertionError("scheduler and cache talk for ever")

    def step(self) -> bool:
        """Settle with the cache, then run one step to its end. False if there was none."""
        self.talk_to_cache()
        self.run_step()
        is_done = False
        while self.hear_result():
            is_done = True
        self.talk_to_cache()
        return is_done

    def drain(self) -> None:
        for _ in range(MOST_ROUNDS):
            if not self.step():
                return
        raise AssertionError("steps go on for ever")

    def assert_idle(self) -> None:
        """Everybody has ended and everything is given back."""
        assert not self.state.requests, f"requests never ended: {sorted(self.state.requests)}"
        assert not self.state.admission.reserving
        assert not self.state.in_flight
        assert not self.outputs.still_open()
        assert self.cache.num_leases == 0
        assert self.cache.num_available_pages == self.limits.num_pages
        assert len(self.state.batch.free_slots) == self.state.batch.num_slots
        assert not self.executor.slots.keys() - set(self.state.batch.closes), "a slot stays open"
        assert self.cache.num_late == 0, "the cache was told about a lease or request that it does not know"

    def _post(self, result: StepDone | StepFailed | CommandRan) -> None:
        self.results.append(result)

    def _route(self, effect: Effect) -> None:
        destination, message = effect
        match destination, message:
            case "cache", ReservePages() | SettleStep() | WatchPrefix() | UnwatchPrefix() | FlushCache():
                if isinstance(message, SettleStep):
                    self.num_unanswered_settles += 1
                    assert self.num_unanswered_settles == 1, "two SettleStep are unanswered"
                self.sent_to_cache.append(message)
                self.to_cache.append(message)
            case "grammar", CompileGrammar(request_id=request_id, key=key, grammar=grammar):
                assert grammar == grammar_of(key)
                assert key not in self.compiling, "a grammar is asked for twice at a time"
                if key in self.ready_grammars:
                    self.from_grammar.append(GrammarReady(request_id=request_id, key=key))
                else:
                    self.compiling[key] = request_id
            case "grammar", GrammarUnwanted(key=key):
                self.compiling.pop(key, None)
                self.from_grammar = deque(ready for ready in self.from_grammar if ready.key != key)
            case "executor", StepPlan():
                self._check_budget(message)
                self.plans.append(message)
                self.executor.submit(message)
            case "executor", RunCommand():
                self.executor.execute(message)
            case "asker", CommandRan():
                assert message.command_id not in self.answers, "a command is answered twice"
                self.answers[message.command_id] = message.answer
            case "detokenizer", TokenBatch():
                self.outputs.text(message)
            case "http", RequestFailed():
                self.outputs.failed(message)
            case "metrics", StepStats():
                self.stats.append(message)
            case _:
                raise AssertionError(f"{type(message).__name__} was sent to {destination}")

    def _check_budget(self, plan: StepPlan) -> None:
        num_tokens = sum(row.num_tokens for row in plan.rows)
        budget = self.config.chunked_prefill_size or self.limits.budget_tokens
        assert num_tokens > 0, "an empty step"
        assert budget == -1 or num_tokens <= budget, f"{num_tokens} tokens in a step with a budget of {budget}"
        assert self.executor.num_pending + len(self.results) < (1 if self.config.disable_overlap_schedule else 2)
