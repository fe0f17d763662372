"""Commands to the engine: what waits for what, and one answer each."""

from __future__ import annotations

import pytest

from runtime.messages import (
    CommandRan,
    ContinueGeneration,
    Done,
    EngineCommand,
    FlushCache,
    PauseGeneration,
    PauseMode,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    UpdateWeights,
)
from tests.fakes.executor import expected_output
from tests.scheduling.conftest import World

PROMPT = (1, 2, 3, 4, 5)
UPDATE = UpdateWeights(model_path="new")


def order(world: World, command: EngineCommand) -> int:
    command_id = world.order(command)
    world.advance()
    return command_id


def answer_to(world: World, command_id: int) -> Done | Refused | None:
    return world.answers.get(command_id)


def said(world: World, request_id: int) -> list[int]:
    return world.outputs.token_ids.get(request_id, [])


def test_new_weights_wait_for_what_runs_and_hold_up_what_comes() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=6)
    world.step()
    update = order(world, UPDATE)
    world.admit(2, PROMPT, max_new_tokens=3)
    for _ in range(3):
        world.step()
        assert (answer_to(world, update), said(world, 2)) == (None, [])
    world.drain()
    assert answer_to(world, update) == Done()
    assert said(world, 1) == expected_output(PROMPT, 6, world.limits.vocab_size)
    assert said(world, 2) == expected_output(PROMPT, 3, world.limits.vocab_size)
    assert world.executor.weights == 1
    assert world.outputs.opened[2].num_cached_tokens == 0, "what the old weights computed is forgotten"
    world.assert_idle()


def test_new_weights_in_a_pause_wait_for_no_other_message() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=6)
    world.step()
    order(world, PauseGeneration(mode="in_place"))
    world.drain()
    update = order(world, UPDATE)
    assert not world.state.ledger.has_unsent, "the cache is told of the pages in the same turn"
    world.drain()
    assert answer_to(world, update) == Done()
    order(world, ContinueGeneration())
    world.drain()
    assert len(said(world, 1)) == 6
    world.assert_idle()


def test_weights_that_are_missing_change_nothing() -> None:
    world = World()
    world.admit(1, PROMPT)
    world.drain()
    update = order(world, UpdateWeights(model_path="missing"))
    world.admit(2, PROMPT)
    world.drain()
    assert isinstance(answer_to(world, update), Refused)
    assert world.outputs.opened[2].num_cached_tokens == 4, "the cache is kept"
    assert not any(isinstance(message, FlushCache) for message in world.sent_to_cache)


def test_an_update_may_abort_what_runs() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=50)
    world.step()
    world.admit(2, PROMPT, max_new_tokens=2)
    update = order(world, UpdateWeights(model_path="new", aborts_all=True))
    world.drain()
    assert answer_to(world, update) == Done()
    assert world.outputs.finishes[1].type == "abort"
    assert world.outputs.finishes[2].type == "length"


def test_a_retracted_request_is_not_held_up_by_an_update() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=6)
    world.step()
    world.state._retract_all()
    update = order(world, UPDATE)
    world.drain()
    assert said(world, 1) == expected_output(PROMPT, 6, world.limits.vocab_size)
    assert answer_to(world, update) == Done()


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pause_keeps_what_was_said_and_goes_on_after_it(mode: PauseMode) -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=8)
    world.step()
    world.step()
    pause = order(world, PauseGeneration(mode=mode))
    assert answer_to(world, pause) is None, "a step is in flight"
    world.drain()
    assert answer_to(world, pause) == Done()
    num_said = len(said(world, 1))
    assert 0 < num_said < 8
    assert world.cache.num_leases == (mode == "in_place")
    world.admit(2, PROMPT)
    world.drain()
    assert (len(said(world, 1)), said(world, 2)) == (num_said, [])
    assert world.state.report().is_held
    end = order(world, ContinueGeneration())
    world.drain()
    assert answer_to(world, end) == Done()
    assert said(world, 1) == expected_output(PROMPT, 8, world.limits.vocab_size)
    assert len(said(world, 2)) == 4
    world.assert_idle()


def test_a_pause_may_abort_everything() -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=8)
    world.step()
    world.admit(2, PROMPT)
    order(world, PauseGeneration(mode="abort"))
    world.drain()
    assert [world.outputs.finishes[i].type for i in (1, 2)] == ["abort", "abort"]
    world.assert_idle()


@pytest.mark.parametrize("is_paused_first", [True, False])
def test_paused_requests_go_on_with_new_weights_from_their_beginning(is_paused_first: bool) -> None:
    """The fake executor notices keys and values of other weights."""
    world = World()
    world.admit(1, PROMPT, max_new_tokens=8)
    world.step()
    world.step()
    commands = [PauseGeneration(mode="in_place"), UPDATE]
    ids = [order(world, command) for command in (commands if is_paused_first else reversed(commands))]
    world.drain()
    assert [answer_to(world, command_id) for command_id in ids] == [Done(), Done()]
    order(world, ContinueGeneration())
    world.drain()
    assert said(world, 1) == expected_output(PROMPT, 8, world.limits.vocab_size)
    world.assert_idle()


def test_memory_is_given_back_only_by_an_engine_without_requests() -> None:
    world = World()
    world.admit(1, PROMPT)
    world.step()
    refused = order(world, ReleaseMemory())
    world.drain()
    assert isinstance(answer_to(world, refused), Refused)
    release = order(world, ReleaseMemory())
    world.drain()
    assert answer_to(world, release) == Done()
    assert isinstance(answer_to(world, order(world, UPDATE)), Refused)
    world.admit(2, PROMPT)
    world.drain()
    assert said(world, 2) == []
    resume = order(world, ResumeMemory())
    world.drain()
    assert answer_to(world, resume) == Done()
    assert said(world, 2) == expected_output(PROMPT, 4, world.limits.vocab_size)
    assert world.outputs.opened[2].num_cached_tokens == 0
    world.assert_idle()


def test_a_part_of_the_memory_is_not_enough_to_go_on() -> None:
    world = World()
    order(world, ReleaseMemory())
    world.drain()
    order(world, ResumeMemory(tags=("kv_cache",)))
    world.admit(1, PROMPT)
    world.drain()
    assert said(world, 1) == []
    order(world, ResumeMemory(tags=("weights",)))
    world.drain()
    assert len(said(world, 1)) == 4


@pytest.mark.parametrize("command", [ReadWeights(name="w"), StartProfile(output_dir="x")])
def test_what_changes_nothing_waits_for_nobody(command: EngineCommand) -> None:
    world = World()
    world.admit(1, PROMPT, max_new_tokens=20)
    world.step()
    order(world, UPDATE)
    read = order(world, command)
    for _ in range(5):
        world.step()
    assert isinstance(answer_to(world, read), Done)
    assert 1 in world.state.requests


def test_exclusive_commands_run_one_after_the_other() -> None:
    world = World()
    ids = [order(world, command) for command in (UPDATE, ReleaseMemory(), ResumeMemory(), UPDATE)]
    world.drain()
    assert all(answer_to(world, command_id) == Done() for command_id in ids)
    assert (world.executor.weights, world.executor.released) == (2, set())


def test_an_answer_to_nobody_is_passed_on() -> None:
    world = World()
    world.state.command_ran(CommandRan(command_id=99, answer=Done()))
    world.advance()
    assert world.answers[99] == Done()
