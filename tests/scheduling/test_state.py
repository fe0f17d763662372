"""The life of a request: each rule of the state machine on its own."""

from __future__ import annotations

import pytest

from runtime.errors import ConfigError, EngineError, Failure
from runtime.messages import (
    AbortCause,
    Finish,
    GrammarFailed,
    PagesDenied,
    PagesGranted,
    ReservePages,
    SettleStep,
    StepDone,
    StepFailed,
    StepSettled,
    TextOpen,
    UnwatchPrefix,
    WatchPrefix,
)
from runtime.params import TextOptions
from tests.fakes.executor import expected_output, next_token
from tests.scheduling.conftest import World, make_limits

PROMPT = (1, 2, 3, 4, 5)


def alone(prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    return expected_output(prompt, num_tokens, make_limits().vocab_size)


def settles(world: World) -> list[SettleStep]:
    return [message for message in world.sent_to_cache if isinstance(message, SettleStep)]


def reserves(world: World) -> list[int]:
    return [message.request_id for message in world.sent_to_cache if isinstance(message, ReservePages)]


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [-1, 1, 3, 512])
@pytest.mark.parametrize("is_serial", [False, True])
def test_requests_say_what_they_would_say_alone(budget: int, is_serial: bool) -> None:
    world = World(chunked_prefill_size=budget, disable_overlap_schedule=is_serial)
    prompts = {number: (*PROMPT, number) for number in range(6)}
    for number, prompt in prompts.items():
        world.admit(number, prompt, max_new_tokens=10 + number)
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids == {number: alone(prompt, 10 + number) for number, prompt in prompts.items()}
    assert world.outputs.finishes == {number: Finish("length", length=10 + number) for number in prompts}


def test_two_steps_are_in_flight_with_overlap_and_one_without() -> None:
    for is_serial, num_in_flight in ((False, 2), (True, 1)):
        world = World(disable_overlap_schedule=is_serial)
        world.admit(1, PROMPT)
        world.talk_to_cache()
        assert world.state.report().num_in_flight_steps == num_in_flight


def test_an_end_by_count_is_known_ahead() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=3)
    world.drain()
    assert [row.start for plan in world.plans for row in plan.rows] == [0, 5, 6]


def test_an_end_by_id_leaves_a_row_in_flight_that_fences_the_pages() -> None:
    stop_id = alone(PROMPT, 2)[1]
    world = World(eos=(stop_id,))
    world.admit(1, PROMPT, max_new_tokens=10)
    world.step()
    world.step()
    assert world.outputs.finishes == {1: Finish("stop", matched=stop_id)}
    assert len(world.state.in_flight) == 1
    (release,) = [release for settle in settles(world) for release in settle.releases]
    assert release.fence_step == world.plans[-1].step_id == 3
    assert release.token_ids == (*PROMPT, alone(PROMPT, 1)[0])
    world.drain()
    assert world.outputs.token_ids[1] == alone(PROMPT, 2)
    world.assert_idle()
    assert settles(world)[-1].retired_step == 3, "the cache has to hear that the fence has passed"


def test_a_slot_is_given_on_while_its_last_row_is_in_flight() -> None:
    world = World(make_limits(num_slots=1), eos=(alone(PROMPT, 2)[1],))
    world.admit(1, PROMPT, max_new_tokens=10)
    world.admit(2, (9, 9, 9), max_new_tokens=2)
    world.step()
    world.step()
    assert world.plans[-1].closes == (0,)
    assert [opened.token_ids for opened in world.plans[-1].opens] == [(9, 9, 9)]
    assert len(world.state.in_flight) == 2
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids[2] == alone((9, 9, 9), 2)


def test_no_tokens_wanted_computes_the_prompt_and_says_nothing() -> None:
    world = World(chunked_prefill_size=2)
    world.admit(1, PROMPT, max_new_tokens=0)
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids == {1: []}
    assert world.outputs.finishes == {1: Finish("length", length=0)}
    world.admit(2, PROMPT, max_new_tokens=1)
    world.drain()
    assert world.outputs.opened[2].num_cached_tokens == 4


def test_the_first_row_opens_the_text_with_the_tail_of_the_prompt() -> None:
    world = World()
    prompt = tuple(range(12))
    world.admit(1, prompt)
    world.drain()
    assert world.outputs.opened[1] == TextOpen(
        request_id=1, text=TextOptions(), prompt_ids=prompt[-8:], num_prompt_tokens=12, num_cached_tokens=0
    )


def test_growth_is_asked_while_the_step_before_runs() -> None:
    world = World(make_limits(page_size=1))
    world.admit(1, PROMPT, max_new_tokens=4)
    world.talk_to_cache()
    assert [plan.step_id for plan in world.plans] == [1, 2]
    assert settles(world)[0].retired_step == 0
    assert len(settles(world)[0].grows) == 1


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="chunked-prefill-size"):
        World(chunked_prefill_size=0)


def test_a_result_with_missing_tokens_is_a_broken_executor() -> None:
    world = World()
    world.admit(1, PROMPT)
    world.talk_to_cache()
    with pytest.raises(EngineError, match="0 tokens, not 1"):
        world.state.step_done(StepDone(step_id=1, token_ids=()))


def test_each_step_is_counted() -> None:
    world = World(chunked_prefill_size=4)
    world.admit(1, PROMPT, max_new_tokens=3)
    world.drain()
    world.admit(2, PROMPT, max_new_tokens=1)
    world.drain()
    steps = [stats for stats in world.stats if stats.num_prefill_tokens or stats.num_decode_tokens]
    assert [(stats.num_prefill_tokens, stats.num_decode_tokens) for stats in steps] == [
        (4, 0),
        (1, 0),
        (0, 1),
        (0, 1),
        (1, 0),
    ]
    assert [stats.num_new_sequences for stats in steps] == [1, 0, 0, 0, 1]
    assert [stats.num_cached_tokens for stats in steps] == [0, 0, 0, 0, 4]
    assert [stats.num_new_prompt_tokens for stats in steps] == [5, 0, 0, 0, 5]
    assert steps[0].num_total_tokens == 256
    assert steps[0].num_used_tokens == 8
    assert world.state.report().num_steps == 5


def test_an_engine_with_nothing_to_do_says_so_once() -> None:
    world = World()
    world.advance()
    assert (world.stats[-1].num_total_tokens, world.stats[-1].num_used_tokens) == (256, 0)
    world.admit(1, PROMPT, max_new_tokens=3)
    world.drain()
    world.advance()
    assert [stats.num_used_tokens for stats in world.stats] == [0, 8, 8, 8, 0]
    assert (world.stats[-1].num_running, world.stats[-1].num_queued, world.stats[-1].num_decode_tokens) == (0, 0, 0)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_fail_one_request() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=3)
    world.admit(2, (9, 9), max_new_tokens=3)
    world.talk_to_cache()
    world.executor.invalid_slots.add(1)
    world.drain()
    world.assert_idle()
    assert world.outputs.finishes.keys() == {1}
    assert world.outputs.failures[2].status == 500
    assert "invalid numbers" in world.outputs.failures[2].message


def test_a_failed_step_fails_its_requests_and_no_others() -> None:
    world = World(chunked_prefill_size=5)
    world.admit(1, PROMPT, max_new_tokens=3)
    world.admit(2, (7, 8, 9), max_new_tokens=3)
    world.executor.fail_next()
    world.drain()
    world.assert_idle()
    assert world.outputs.failures.keys() == {1}
    assert world.outputs.failures[1].type == "server_error"
    assert world.outputs.token_ids[2] == alone((7, 8, 9), 3)


def test_a_request_that_fails_after_its_first_token_is_closed() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=8)
    world.step()
    world.executor.fail_next()
    world.drain()
    world.assert_idle()
    assert world.outputs.closed == {1}
    assert world.outputs.failures.keys() == {1}


@pytest.mark.parametrize(("lost", "exit_code"), [("engine", 5), ("rank", 6), ("device", 7)])
def test_a_fatal_step_loses_the_engine(lost: str, exit_code: int) -> None:
    world = World()
    world.admit(1, PROMPT)
    world.talk_to_cache()
    with pytest.raises(EngineError, match="gone for good") as raised:
        world.state.step_failed(StepFailed(step_id=1, reason="gone for good", is_fatal=True, lost=lost))  # type: ignore[arg-type]
    assert raised.value.exit_code == exit_code
    assert raised.value.is_final == (lost != "engine")


def test_a_full_queue_refuses() -> None:
    world = World(max_queued_requests=2)
    for number in range(3):
        world.admit(number, PROMPT)
    assert world.state.num_waiting == 2
    world.advance()
    failure = world.outputs.failures[2]
    assert (failure.status, failure.type, failure.code) == (503, "overloaded_error", "queue_full")
    assert failure.retry_after == 1
    world.drain()
    assert world.outputs.finishes.keys() == {0, 1}


def test_what_can_never_fit_is_refused_at_once() -> None:
    world = World(make_limits(num_pages=2))
    world.admit(1, range(9))
    world.advance()
    assert world.outputs.failures[1].code == "context_length_exceeded"
    assert not world.state.requests


# -- aborts ------------------------------------------------------------------------------------------------------------


def bring_to(world: World, stage: str) -> None:
    """Request 1 is in `stage`, beside others."""
    world.admit(1, PROMPT, max_new_tokens=12, grammar_key="g" if stage == "grammar" else None)
    if stage in ("queued", "grammar"):
        return
    world.advance()
    if stage == "reserving":
        return
    world.serve_cache()
    world.hear_cache()
    if stage == "granted":
        return
    world.advance()
    if stage == "in flight":
        return
    world.step()
    world.step()
    if stage == "decoding":
        assert world.outputs.token_ids[1]
        return
    assert stage == "retracted"
    world.state._retract(world.state.requests[1])


STAGES = ("queued", "grammar", "reserving", "granted", "in flight", "decoding", "retracted")


@pytest.mark.parametrize("cause", ["disconnect", "deadline", "restart", "api", "stop_string"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_abort_ends_a_request_wherever_it_is(stage: str, cause: str) -> None:
    world = World(chunked_prefill_size=3)
    bring_to(world, stage)
    was_opened = 1 in world.outputs.opened
    world.abort(1, cause)  # type: ignore[arg-type]
    if cause == "stop_string":
        world.outputs.closed.add(1)
    world.advance()
    assert not world.state.requests
    if cause == "api":
        assert world.outputs.finishes == {1: Finish("abort")}
    else:
        assert world.outputs.num_terminals[1] == 0
        assert (1 in world.outputs.closed) == (was_opened or cause == "stop_string")
    world.admit(2, (9, 9), max_new_tokens=2)
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids[2] == alone((9, 9), 2)


def test_an_aborted_request_that_is_granted_pages_gives_them_back_at_once() -> None:
    world = World()
    bring_to(world, "reserving")
    world.abort(1)
    world.serve_cache()
    world.hear_cache()
    assert world.cache.num_leases == 1
    world.talk_to_cache()
    assert world.cache.num_leases == 0


def test_late_and_unknown_messages_are_counted_and_change_nothing() -> None:
    world = World()
    world.abort(77)
    world.state.step_done(StepDone(step_id=9, token_ids=()))
    world.state.step_failed(StepFailed(step_id=9, reason="late"))
    world.state.denied(PagesDenied(request_id=77, num_available_pages=64))
    assert world.state.num_late_messages == 4
    world.talk_to_cache()
    assert world.sent_to_cache == []


def test_pages_for_nobody_are_given_back() -> None:
    world = World()
    granted = world.cache.reserve(77, PROMPT)
    assert isinstance(granted, PagesGranted)
    world.state.granted(granted)
    world.talk_to_cache()
    assert world.cache.num_leases == 0
    assert world.state.num_late_messages == 1


# -- grammars ----------------------------------------------------------------------------------------------------------

NO_GRAMMAR = Failure(status=400, type="invalid_request_error", message="no grammar")


def test_a_failed_grammar_fails_all_who_wait_for_it() -> None:
    world = World()
    world.admit(1, PROMPT, grammar_key="g")
    world.admit(2, PROMPT, grammar_key="h", max_new_tokens=1)
    world.admit(3, PROMPT, grammar_key="g")
    world.drain()
    assert world.compiling == {"g": 1, "h": 2}
    world.answer_grammar("g", NO_GRAMMAR)
    world.drain()
    assert world.outputs.failures == {1: NO_GRAMMAR, 3: NO_GRAMMAR}
    assert world.state.requests.keys() == {2}
    world.answer_grammar("h")
    world.drain()
    world.assert_idle()
    assert world.outputs.finishes.keys() == {2}


@pytest.mark.parametrize("failure", [None, NO_GRAMMAR])
def test_an_answer_is_not_remembered(failure: Failure | None) -> None:
    """The grammar may be dropped, and the failure may pass."""
    world = World()
    for request_id in (1, 2):
        world.admit(request_id, PROMPT, grammar_key="g", max_new_tokens=1)
        world.drain()
        assert world.compiling == {"g": request_id}
        world.answer_grammar("g", failure)
        world.drain()
        world.assert_idle()


@pytest.mark.parametrize("cause", ["disconnect", "deadline", "restart", "api"])
def test_a_grammar_is_unwanted_when_the_last_who_waits_has_left(cause: AbortCause) -> None:
    world = World()
    world.admit(1, PROMPT, grammar_key="g")
    world.admit(2, PROMPT, grammar_key="g")
    world.admit(3, PROMPT, grammar_key="h")
    world.advance()
    world.abort(1, cause)
    world.advance()
    assert world.compiling == {"g": 1, "h": 3}
    world.abort(2, cause)
    world.advance()
    assert world.compiling == {"h": 3}


def test_a_late_answer_does_not_end_a_new_wait() -> None:
    """It is of the compilation before, which was given up; an answer of the new one follows."""
    world = World()
    world.admit(1, PROMPT, grammar_key="g", max_new_tokens=1)
    world.abort(1)
    world.admit(2, PROMPT, grammar_key="g", max_new_tokens=1)
    world.advance()
    assert world.compiling == {"g": 2}
    world.state.grammar_failed(GrammarFailed(request_id=1, key="g", failure=NO_GRAMMAR))
    world.advance()
    assert world.state.requests.keys() == {2}
    world.answer_grammar("g")
    world.drain()
    world.assert_idle()
    assert world.outputs.finishes.keys() == {2}


# -- admission ---------------------------------------------------------------------------------------------------------


def test_slots_bound_the_reservations() -> None:
    world = World(make_limits(num_slots=3), max_running_requests=2)
    for number in range(5):
        world.admit(number, (number, number))
    world.advance()
    assert reserves(world) == [0, 1]
    world.talk_to_cache()
    assert world.state.report().num_running == 2
    assert world.state.report().num_waiting == 3
    world.drain()
    world.assert_idle()


def test_the_expected_growth_of_others_keeps_a_request_out() -> None:
    """Of 12 pages of a token the first has 4 and is expected to take 0.7 × 8 more: what is left does for 1.7, not for 3.7."""
    limits = make_limits(num_pages=12, page_size=1)
    for prompt, num_running in (((7, 8, 9), 1), ((7,), 2)):
        world = World(limits)
        world.admit(1, (1, 2), max_new_tokens=8)
        world.talk_to_cache()
        world.admit(2, prompt, max_new_tokens=1)
        world.talk_to_cache()
        assert world.state.report().num_running == num_running
        world.drain()
        world.assert_idle()


def test_the_head_is_always_tried_when_nothing_runs() -> None:
    world = World(make_limits(num_pages=4, page_size=1), schedule_conservativeness=10.0)
    world.admit(1, (1, 2), max_new_tokens=30, stop_token_ids=tuple(alone((1, 2), 1)))
    world.drain()
    assert world.outputs.finishes.keys() == {1}


def test_a_denied_request_waits_at_the_front_until_pages_come_back() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=6)
    world.talk_to_cache()
    world.admit(2, (6, 7, 8), max_new_tokens=1)
    world.admit(3, (9, 9), max_new_tokens=1)
    world.advance()
    assert reserves(world) == [1, 2, 3]
    for number in (2, 3):
        world.to_cache.popleft()
        world.state.denied(PagesDenied(request_id=number, num_available_pages=62))
    world.talk_to_cache()
    assert reserves(world) == [1, 2, 3], "nothing changed, so asking again is vain"
    world.drain()
    assert reserves(world) == [1, 2, 3, 2, 3]
    world.assert_idle()


def test_waiting_requests_are_watched_until_they_leave_the_queue() -> None:
    world = World(make_limits(num_slots=1), policy="lpm")
    world.admit(1, PROMPT, max_new_tokens=2)
    world.admit(2, (9, 9, 9, 9, 9), max_new_tokens=1)
    world.admit(3, (*PROMPT, 6), max_new_tokens=1)
    world.advance()
    watched = [message.request_id for message in world.sent_to_cache if isinstance(message, WatchPrefix)]
    assert watched == [2, 3]
    world.drain()
    assert reserves(world) == [1, 3, 2], "the longest match goes first"
    gone = [message.request_id for message in world.sent_to_cache if isinstance(message, UnwatchPrefix)]
    assert gone == [3, 2]
    world.assert_idle()


def test_an_aborted_request_is_not_watched_any_more() -> None:
    world = World(make_limits(num_slots=1), policy="lpm")
    world.admit(1, PROMPT)
    world.admit(2, PROMPT)
    world.talk_to_cache()
    world.abort(2)
    world.drain()
    world.assert_idle()
    assert UnwatchPrefix(request_id=2) in world.sent_to_cache


# -- a common prefix ---------------------------------------------------------------------------------------------------


def num_computed_prompt_tokens(world: World) -> int:
    return sum(stats.num_prefill_tokens for stats in world.stats)


@pytest.mark.parametrize("policy", ["fcfs", "lpm"])
def test_a_common_prefix_is_computed_once(policy: str) -> None:
    world = World(make_limits(num_slots=16), policy=policy, chunked_prefill_size=8)
    prefix = tuple(range(20))
    for number in range(10):
        world.admit(number, (*prefix, 30 + number, 30 + number), max_new_tokens=2)
    world.drain()
    world.assert_idle()
    assert num_computed_prompt_tokens(world) == 20 + 10 * 2
    assert world.outputs.token_ids[9] == alone((*prefix, 39, 39), 2)


def test_a_follower_runs_as_soon_as_its_prefix_is_published() -> None:
    world = World(chunked_prefill_size=8)
    world.admit(1, range(40), max_new_tokens=20)
    world.admit(2, (*range(14), 49, 49, 49), max_new_tokens=1)
    world.step()
    assert world.state.report().num_running == 1
    world.step()
    assert world.state.report().num_running == 2
    assert world.state.requests[2].num_reused_tokens == 12


def test_a_follower_asks_for_pages_after_the_cache_was_told_of_its_prefix() -> None:
    world = World(chunked_prefill_size=8)
    world.admit(9, (8, 8, 8), max_new_tokens=20)
    world.step()
    world.admit(1, range(9), max_new_tokens=20)
    world.admit(2, range(9), max_new_tokens=1)
    while world.state.requests[1].num_published_tokens < 8:
        world.run_step()
        world.hear_result()
        if world.state.requests[1].num_published_tokens < 8:
            world.talk_to_cache()
    world.state.ledger.is_settling = True  # an answer is still to come
    world.num_unanswered_settles += 1
    world.advance()
    assert 2 not in reserves(world)
    world.state.settled(StepSettled(step_id=0, grown=(), denied=(), num_available_pages=50))
    world.num_unanswered_settles -= 1
    world.drain()
    assert world.outputs.opened[2].num_cached_tokens == 8
    world.assert_idle()


def test_a_cached_prefix_holds_nobody_back() -> None:
    world = World(make_limits(num_slots=16))
    prefix = tuple(range(20))
    world.admit(100, (*prefix, 49), max_new_tokens=1)
    world.drain()
    num_steps = world.state.num_steps
    for number in range(10):
        world.admit(number, (*prefix, 30 + number, 30 + number), max_new_tokens=1)
    world.drain()
    assert world.state.num_steps == num_steps + 1


@pytest.mark.parametrize("stage", ["reserving", "granted", "in flight"])
@pytest.mark.parametrize("loss", ["abort", "deny", "retract", "fail"])
def test_a_leader_that_is_lost_holds_nobody_back(stage: str, loss: str) -> None:
    world = World(chunked_prefill_size=4)
    prompt = tuple(range(20))
    world.admit(1, prompt, max_new_tokens=2)
    world.admit(2, prompt, max_new_tokens=2)
    world.advance()
    if stage != "reserving":
        world.serve_cache()
        world.hear_cache()
    if stage == "in flight":
        world.advance()
    if loss == "abort":
        world.abort(1)
    elif loss == "deny" and stage == "reserving":
        world.to_cache.popleft()
        world.state.denied(PagesDenied(request_id=1, num_available_pages=0))
        world.cache.flush()
    elif loss == "retract" and stage != "reserving":
        world.state._retract(world.state.requests[1])
    else:
        world.executor.fail_next()
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids[2] == alone(prompt, 2) or 2 in world.outputs.failures


def test_without_sharing_nobody_waits() -> None:
    world = World(shares_prefixes=False)
    for number in range(4):
        world.admit(number, range(20), max_new_tokens=1)
    world.talk_to_cache()
    assert world.state.report().num_running == 4
    world.drain()
    assert num_computed_prompt_tokens(world) == 80


# -- a dry pool --------------------------------------------------------------------------------------------------------


def test_a_dry_pool_retracts_and_keeps_what_was_said() -> None:
    world = World(make_limits(num_pages=6, page_size=2), schedule_conservativeness=0.01)
    prompts = {number: (number, number + 1) for number in (1, 2, 3)}
    for number, prompt in prompts.items():
        world.admit(number, prompt, max_new_tokens=8)
    world.drain()
    world.assert_idle()
    assert sum(stats.num_retracted for stats in world.stats) > 0
    assert sum(stats.num_new_sequences for stats in world.stats) == 3, "one that comes back is not new"
    assert world.outputs.token_ids == {number: alone(prompt, 8) for number, prompt in prompts.items()}
    reopened = [opened for plan in world.plans for opened in plan.opens if len(opened.token_ids) > opened.num_prompt_tokens]
    assert reopened
    assert {opened.num_prompt_tokens for opened in reopened} == {2}


def test_the_request_that_lost_least_gives_way() -> None:
    world = World(make_limits(num_pages=7, page_size=1), schedule_conservativeness=0.01)
    world.admit(1, (1,), max_new_tokens=7)
    world.step()
    world.step()
    world.admit(2, (2,), max_new_tokens=7)
    world.drain()
    reopened = [opened.token_ids[0] for plan in world.plans for opened in plan.opens if len(opened.token_ids) > 1]
    assert set(reopened) == {2}
    world.assert_idle()


def test_a_retracted_request_waits_for_its_rows_in_flight() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=8)
    world.step()
    assert world.state.requests[1].num_in_flight_rows == 2
    world.state._retract(world.state.requests[1])
    world.talk_to_cache()
    assert reserves(world) == [1]
    world.step()
    world.drain()
    assert world.outputs.token_ids[1] == alone(PROMPT, 8)
    world.assert_idle()


def test_a_retracted_request_may_end_by_its_rows_in_flight() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=3)
    world.step()
    world.state._retract(world.state.requests[1])
    world.drain()
    world.assert_idle()
    assert reserves(world) == [1]
    assert world.outputs.token_ids[1] == alone(PROMPT, 3)


def test_a_retraction_admits_more_carefully() -> None:
    world = World(make_limits(num_pages=6, page_size=2), schedule_conservativeness=0.01)
    before = world.state.admission.estimate.ratio
    for number in range(3):
        world.admit(number, (number, 7), max_new_tokens=8)
    world.drain()
    assert world.state.admission.estimate.ratio > before


def test_a_request_that_is_alone_and_does_not_fit_fails_clearly() -> None:
    world = World(make_limits(num_pages=4, page_size=2))
    world.admit(1, PROMPT, max_new_tokens=20)
    world.admit(2, (8, 9), max_new_tokens=2)
    world.drain()
    world.assert_idle()
    failure = world.outputs.failures[1]
    assert (failure.status, failure.type, failure.code) == (503, "overloaded_error", "kv_cache_exhausted")
    assert "8 tokens" in failure.message
    assert "--max-total-tokens" in failure.message
    assert world.outputs.token_ids[1] == alone(PROMPT, 4), "all that fits is said before"
    assert world.outputs.token_ids[2] == alone((8, 9), 2)


def test_a_prompt_without_a_count_fills_the_pool_and_ends() -> None:
    world = World(make_limits(num_pages=4, page_size=2))
    world.admit(1, PROMPT, max_new_tokens=None)
    world.drain()
    world.assert_idle()
    assert world.outputs.finishes == {1: Finish("length", length=4)}


def test_the_same_prompt_again_needs_no_more_pages_than_it_has() -> None:
    """The tree's copy of the last page is locked by who publishes it again; a lone request has to get round that."""
    world = World(make_limits(num_pages=5, page_size=1, num_slots=1))
    for number in (1, 2):
        world.admit(number, (1,), max_new_tokens=5)
    world.drain()
    world.assert_idle()
    assert world.outputs.token_ids[2] == alone((1,), 5)


def test_thirty_two_requests_in_eight_pages_all_end() -> None:
    world = World(make_limits(num_pages=8, page_size=4, num_slots=32), schedule_conservativeness=0.05)
    for number in range(32):
        world.admit(number, (number, 1, 2), max_new_tokens=25)
    world.drain()
    world.assert_idle()
    assert all(world.outputs.token_ids[number] == alone((number, 1, 2), 25) for number in range(32))


def test_a_thousand_waiting_requests_cost_a_running_step_nothing() -> None:
    """No message, and no look at the queue, while no slot is free."""
    world = World(make_limits(num_slots=1), policy="lpm")
    world.admit(0, PROMPT, max_new_tokens=50)
    world.step()
    for number in range(1, 1000):
        world.admit(number, (*PROMPT, number % 50), max_new_tokens=1)
    world.advance()
    ranked_before = list(world.state.admission.queue._entries)
    num_sent = len(world.sent_to_cache)
    world.step()
    world.step()
    assert all(isinstance(message, SettleStep) for message in world.sent_to_cache[num_sent:])
    assert world.state.admission.queue._entries == ranked_before


# -- the cache protocol ------------------------------------------------------------------------------------------------


def test_pages_for_a_request_that_ended_in_the_meantime_are_ignored() -> None:
    world = World(make_limits(page_size=1))
    world.admit(1, PROMPT, max_new_tokens=4)
    world.advance()
    world.serve_cache()
    world.hear_cache()
    world.advance()
    assert settles(world)[0].grows
    world.abort(1)
    world.talk_to_cache()
    world.drain()
    world.assert_idle()


def test_a_step_waits_for_the_pages_that_are_asked_for() -> None:
    world = World(make_limits(page_size=1))
    world.admit(1, (1,), max_new_tokens=4)
    world.admit(2, (2, 3), max_new_tokens=4)
    world.talk_to_cache()
    world.run_step()
    world.hear_result()
    world.advance()
    assert all(len(plan.rows) == 2 for plan in world.plans), "the batch must not be split for want of an answer"


def test_the_prompt_is_published_chunk_by_chunk() -> None:
    world = World(chunked_prefill_size=6)
    world.admit(1, range(13), max_new_tokens=1)
    world.drain()
    published = [publish.num_tokens for settle in settles(world) for publish in settle.publishes]
    assert published[:2] == [4, 12]


def test_an_idle_scheduler_says_nothing() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=1)
    world.drain()
    world.advance()
    assert world.state.take_effects() == []
    assert not world.to_cache


def test_a_grant_that_grew_nobody_changes_nothing() -> None:
    world = World()
    world.state.settled(StepSettled(step_id=1, grown=(), denied=(5,), num_available_pages=3))
    world.state.check()
    assert world.state.ledger.num_available_pages == 3


def test_the_sampler_keeps_out_what_would_end_too_early() -> None:
    first = next_token(PROMPT, make_limits().vocab_size)
    world = World(eos=(first,))
    world.admit(1, PROMPT, max_new_tokens=3, min_new_tokens=2)
    world.drain()
    assert world.plans[0].opens[0].masked_token_ids == (first,)
    assert len(world.outputs.token_ids[1]) >= 2
