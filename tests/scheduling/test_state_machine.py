"""The state machine under random events in any order, with the real page cache and an executor whose pages have contents.

Every request ends exactly once, whatever was aborted, retracted, late or broken, and what a request that ran to its end says
is what it would have said alone.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.errors import Failure
from runtime.messages import (
    Abort,
    AbortCause,
    Admit,
    ContinueGeneration,
    EngineCommand,
    PagesDenied,
    PauseGeneration,
    ReadWeights,
    ReleaseMemory,
    ResumeMemory,
    StepDone,
    UpdateWeights,
    joined_logprobs,
)
from runtime.params import LogprobOptions, SamplingParams, TextOptions
from tests.fakes.executor import constrained_token, hidden_state, logprobs_after, next_token
from tests.fakes.matcher import allowed_ids
from tests.scheduling.conftest import World, grammar_of, make_limits

EOS = (3,)
VOCAB_SIZE = 12
GRAMMAR_FAILURE = Failure(status=400, type="invalid_request_error", message="no grammar")
SILENT_CAUSES = ("disconnect", "deadline", "restart", "stop_string")
CAUSES = st.sampled_from(("disconnect", "stop_string", "deadline", "api", "restart"))
STEMS = ((1, 2, 1, 2, 1, 2, 1, 2, 1), (1, 2, 1, 1, 1, 2, 2, 2), (5, 5, 5, 5, 5, 5, 5))
READY_KEYS = ("c", "d", "e", "f", "h")
"""Grammars that are ready when they are asked for; "a" and "b" are answered now and then."""
WISHES = (
    *((None, False),) * 4,
    (LogprobOptions(), False),
    (LogprobOptions(num_top=2, prompt_start=0), False),
    (LogprobOptions(token_ids=(1, 7), prompt_start=4), False),
    (LogprobOptions(prompt_start=50), True),
    (None, True),
)
COMMANDS: tuple[EngineCommand, ...] = (
    PauseGeneration(mode="abort"),
    PauseGeneration(mode="retract"),
    PauseGeneration(mode="in_place"),
    UpdateWeights(model_path="new"),
    UpdateWeights(model_path="missing", aborts_all=True),
    ReleaseMemory(),
    ReadWeights(name="w"),
)
POLICIES = st.sampled_from(("fcfs", "lpm", "dfs-weight", "random", "priority"))


class SchedulerMachine(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.admitted: dict[int, Admit] = {}
        self.silenced: set[int] = set()
        self.stopped: set[int] = set()
        self.has_faults = False
        self.has_orders = False

    @initialize(
        num_pages=st.integers(3, 12),
        page_size=st.integers(1, 4),
        num_slots=st.integers(1, 4),
        budget=st.sampled_from((-1, 1, 2, 3, 5, 8)),
        has_overlap=st.booleans(),
        policy=POLICIES,
        shares_prefixes=st.sampled_from((True, True, False)),
        conservativeness=st.sampled_from((0.01, 0.01, 0.3, 1.0)),
        max_queued=st.sampled_from((1000, 1000, 2)),
        has_faults=st.sampled_from((False, False, True)),
        has_orders=st.sampled_from((False, False, False, True)),
    )
    def start(
        self,
        num_pages: int,
        page_size: int,
        num_slots: int,
        budget: int,
        has_overlap: bool,
        policy: str,
        shares_prefixes: bool,
        conservativeness: float,
        max_queued: int,
        has_faults: bool,
        has_orders: bool,
    ) -> None:
        self.has_faults = has_faults
        self.has_orders = has_orders
        limits = make_limits(
            num_pages=num_pages, page_size=page_size, num_slots=num_slots, context_length=30, vocab_size=VOCAB_SIZE
        )
        self.world = World(
            limits,
            eos=EOS,
            policy=policy,
            shares_prefixes=shares_prefixes,
            chunked_prefill_size=budget,
            disable_overlap_schedule=not has_overlap,
            schedule_conservativeness=conservativeness,
            max_queued_requests=max_queued,
        )
        self.world.ready_grammars.update(READY_KEYS)

    # -- events --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.admitted) < 40)
    @rule(
        stem=st.sampled_from(STEMS),
        length=st.integers(0, 9),
        tail=st.lists(st.integers(0, 3), max_size=3),
        max_new_tokens=st.sampled_from((9, 20, 5, 2, 1, 0, None)),
        min_new_tokens=st.sampled_from((0, 0, 2)),
        ignore_eos=st.booleans(),
        priority=st.integers(0, 2),
        grammar_key=st.sampled_from((None, None, None, None, "a", "b", *READY_KEYS)),
        wish=st.sampled_from(WISHES),
        num_choices=st.sampled_from((1, 1, 2, 4)),
    )
    def admit(
        self,
        stem: tuple[int, ...],
        length: int,
        tail: list[int],
        max_new_tokens: int | None,
        min_new_tokens: int,
        ignore_eos: bool,
        priority: int,
        grammar_key: str | None,
        wish: tuple[LogprobOptions | None, bool],
        num_choices: int,
    ) -> None:
        for _ in range(num_choices):
            admit = Admit(
                request_id=len(self.admitted),
                token_ids=(*stem[:length], *tail),
                params=SamplingParams(
                    max_new_tokens=max_new_tokens,
                    min_new_tokens=0 if grammar_key else min_new_tokens,
                    ignore_eos=ignore_eos,
                ),
                text=TextOptions(),
                grammar_key=grammar_key,
                grammar=grammar_of(grammar_key),
                logprobs=wish[0],
                returns_hidden_states=wish[1],
                priority=priority,
            )
            self.admitted[admit.request_id] = admit
            self.world.state.admit(admit, self.world.now)

    @precondition(lambda self: self.admitted)
    @rule(choice=st.integers(0, 10**6), cause=CAUSES)
    def abort(self, choice: int, cause: AbortCause) -> None:
        self._abort(choice % len(self.admitted), cause)

    @precondition(lambda self: self.world.state.requests)
    @rule(choice=st.integers(0, 10**6), cause=CAUSES)
    def abort_one_that_lives(self, choice: int, cause: AbortCause) -> None:
        living = sorted(self.world.state.requests)
        self._abort(living[choice % len(living)], cause)

    @rule(key=st.sampled_from(("a", "b")), is_ready=st.booleans())
    def answer_grammar(self, key: str, is_ready: bool) -> None:
        self.world.answer_grammar(key, None if is_ready else GRAMMAR_FAILURE)

    @rule(count=st.integers(1, 4))
    def serve_cache(self, count: int) -> None:
        for _ in range(count):
            self.world.serve_cache()

    @rule()
    def hear_grammar(self) -> None:
        self.world.hear_grammar()

    @rule(count=st.integers(1, 4))
    def hear_cache(self, count: int) -> None:
        for _ in range(count):
            self.world.hear_cache()

    @rule()
    def run_step(self) -> None:
        self.world.run_step()

    @rule()
    def hear_result(self) -> None:
        self.world.hear_result()

    @precondition(lambda self: self.has_faults)
    @rule()
    def fail_next_step(self) -> None:
        self.world.executor.fail_next()

    @precondition(lambda self: self.has_faults)
    @rule(slot=st.integers(0, 3))
    def break_numbers(self, slot: int) -> None:
        self.world.executor.invalid_slots ^= {slot}

    @rule()
    def flush_cache(self) -> None:
        self.world.cache.flush()

    @rule()
    def answer_nobody(self) -> None:
        self.world.state.step_done(StepDone(step_id=10**6, token_ids=(1, 2)))
        self.world.state.denied(PagesDenied(request_id=10**6, num_available_pages=self.world.cache.num_available_pages))

    @precondition(lambda self: self.has_orders)
    @rule(command=st.sampled_from(COMMANDS))
    def order(self, command: EngineCommand) -> None:
        self.world.order(command)

    @precondition(lambda self: self.has_orders)
    @rule()
    def go_on(self) -> None:
        """Most of the time nothing is paused."""
        self.world.order(ContinueGeneration())
        self.world.order(ResumeMemory())

    @rule()
    def advance(self) -> None:
        self.world.advance()

    @rule(count=st.integers(1, 20))
    def step(self, count: int) -> None:
        """The usual case, in which everything is prompt: without it runs hardly get anywhere."""
        for _ in range(count):
            self.world.step()

    # -- what holds ----------------------------------------------------------------------------------------------------

    @invariant()
    def the_state_is_consistent(self) -> None:
        if hasattr(self, "world"):
            self.world.state.check()

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        if hasattr(self, "world"):
            assert max(self.world.outputs.num_terminals.values(), default=0) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.advance()
        for key in ("a", "b"):
            self.world.answer_grammar(key, GRAMMAR_FAILURE)
        self.go_on()
        self.world.drain()
        assert len(self.world.answers) == self.world.num_commands, "a command has no answer"
        self.world.assert_idle()
        self._check_terminals()
        self._check_outputs()
        for request_id, said in self.world.outputs.token_ids.items():
            self._check_extras(request_id, self.admitted[request_id], said)

    def _check_extras(self, request_id: int, admit: Admit, said: list[int]) -> None:
        """Log probabilities and hidden states came with every token, once, and are those of the sequence alone."""
        outputs, ids, num_prompt = self.world.outputs, [*admit.token_ids, *said], len(admit.token_ids)
        finish = outputs.finishes.get(request_id)
        if not said and (finish is None or finish.type == "abort"):
            return
        expected, expected_prompt, options = [], [], admit.logprobs
        if options is not None:
            expected = [logprobs_after(ids[:i], ids[i], options, VOCAB_SIZE) for i in range(num_prompt, len(ids))]
            first = num_prompt if options.prompt_start is None else options.prompt_start
            expected_prompt = [logprobs_after(ids[:i], ids[i], options, VOCAB_SIZE) for i in range(first, num_prompt)]
        assert outputs.logprobs.get(request_id, []) == expected
        joined = [joined_logprobs(expected_prompt)] if expected_prompt else []
        assert outputs.prompt_logprobs.get(request_id, []) == joined, "all prompt tokens come with the first row"
        num_states = max(len(ids) - 1, num_prompt) if admit.returns_hidden_states else 0
        assert outputs.hidden_states[request_id] == [hidden_state(ids[: i + 1]) for i in range(num_states)]

    def _check_terminals(self) -> None:
        for request_id in self.admitted:
            num_terminals = self.world.outputs.num_terminals[request_id]
            expected = 0 if request_id in self.silenced else 1
            assert num_terminals == expected, f"request {request_id} got {num_terminals} terminal messages"

    def _check_outputs(self) -> None:
        """Everything that was said is a prefix of what the request would say alone; a full answer is all of it."""
        for request_id, admit in self.admitted.items():
            said = self.world.outputs.token_ids.get(request_id, [])
            alone = self._alone(admit, len(said))
            assert said == alone, f"request {request_id} said {said}, alone it says {alone}"
            finish = self.world.outputs.finishes.get(request_id)
            if finish is not None and finish.type == "length":
                assert len(said) == finish.length
            elif finish is not None and finish.type == "stop" and finish.matched is None:
                assert admit.grammar_key is not None
                assert not allowed_ids(admit.grammar_key, said, VOCAB_SIZE), "the grammar goes on"
            elif finish is not None and finish.type == "stop":
                assert said[-1] == finish.matched
                assert len(said) > admit.params.min_new_tokens
            elif request_id in self.world.outputs.failures:
                self._check_failure(admit, self.world.outputs.failures[request_id])

    def _check_failure(self, admit: Admit, failure: Failure) -> None:
        """Nobody fails without a cause."""
        num_prompt, limits = len(admit.token_ids), self.world.limits
        num_wanted = num_prompt + (admit.params.max_new_tokens or 0)
        num_pool_tokens = limits.num_pages * limits.page_size
        match failure.status, failure.code:
            case 503, "kv_cache_exhausted":
                assert num_wanted - 1 > num_pool_tokens
            case 503, "queue_full":
                assert self.world.config.max_queued_requests == 2
            case 400, "context_length_exceeded":
                assert num_prompt > num_pool_tokens or num_wanted > limits.context_length
            case 400, None:
                assert num_prompt == 0 or admit.grammar_key is not None
            case _:
                assert failure.status == 500
                assert self.has_faults

    def _alone(self, admit: Admit, num_tokens: int) -> list[int]:
        token_ids = list(admit.token_ids)
        for position in range(num_tokens):
            is_masked = position < admit.params.min_new_tokens and not admit.params.ignore_eos
            if admit.grammar_key is not None:
                token_id = constrained_token(token_ids, len(admit.token_ids), admit.grammar_key, VOCAB_SIZE)
                assert token_id is not None, "more was said than the grammar allows"
            else:
                token_id = next_token(token_ids, VOCAB_SIZE, EOS if is_masked else ())
            token_ids.append(token_id)
        return token_ids[len(admit.token_ids) :]

    def _abort(self, request_id: int, cause: AbortCause) -> None:
        if request_id in self.world.state.requests:
            if cause != "api":
                self.silenced.add(request_id)
            if cause == "stop_string":  # the Detokenizer has ended the sequence itself
                self.world.outputs.closed.add(request_id)
        self.world.state.abort(Abort(request_id=request_id, cause=cause))


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
