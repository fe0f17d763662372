"""Grammars and custom processors in the executor: what is allowed, what is forced, and what goes wrong stays alone."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.clock import SystemClock
from runtime.executor.extras import Extensions
from runtime.executor.step_runner import StepRunner
from runtime.messages import GRAMMAR_DROPPED, INVALID_TOKEN, RowExtra, SlotOpen, StepDone, StepPlan, StepRow
from runtime.params import LogprobOptions, SamplingParams
from tests.executor.toy_model import LIMITS, PROMPT, ToyModel, make_kv, row
from tests.fakes.executor import constrained_token, next_token
from tests.fakes.matcher import ScriptedMatchers, allowed_ids

VOCAB_SIZE = LIMITS.vocab_size
PAGES = tuple(range(8))
LONGEST = 24
KEYS = [f"grammar {i}" for i in range(12)]


def alone(key: str) -> list[int]:
    """The whole output under a grammar: the first allowed token, since the toy model likes one token and no other."""
    output: list[int] = []
    while allowed := allowed_ids(key, output, VOCAB_SIZE):
        liked = next_token([*PROMPT, *output], VOCAB_SIZE)
        output.append(liked if liked in allowed else min(allowed))
    return output


class Shout:
    def process(self, logits: np.ndarray, token_ids: np.ndarray, num_prompt_tokens: int, custom_params: dict[str, Any]) -> None:
        assert token_ids.tolist()[:num_prompt_tokens] == list(PROMPT)
        if len(token_ids) > num_prompt_tokens + custom_params["num_tokens"]:
            raise SystemError("as told")
        logits[custom_params["token_id"]] += 50.0


def runner(lost: set[str] | None = None, *, jumps_forward: bool = True) -> StepRunner:
    matchers = ScriptedMatchers(VOCAB_SIZE, frozenset({0}), lost or set())
    extensions = Extensions(matchers, {"Shout": Shout()}, jumps_forward=jumps_forward)
    return StepRunner(ToyModel(), make_kv(), LIMITS, SystemClock(), extensions)


def opening(key: str | None, output: tuple[int, ...] = (), **fields: Any) -> SlotOpen:
    params = fields.pop("params", SamplingParams(temperature=0.0))
    return SlotOpen(
        slot=0,
        token_ids=(*PROMPT, *output),
        num_prompt_tokens=len(PROMPT),
        pages=PAGES,
        params=params,
        grammar_key=key,
        **fields,
    )


class Drive:
    """Plans for one slot as the scheduler does, with one row more in flight than is known if `ahead`."""

    def __init__(self, executor: StepRunner, opened: SlotOpen, *, ahead: bool = False) -> None:
        self.executor = executor
        self.opened = opened
        self.known = list(opened.token_ids)
        self.ahead = ahead
        self.extras: list[RowExtra] = []
        self.num_steps = 0
        self.is_complete = False

    def step(self, start: int, num_tokens: int) -> None:
        opens = () if self.num_steps else (self.opened,)
        self.num_steps += 1
        end = start + num_tokens
        result = self.executor.run(StepPlan(step_id=self.num_steps, opens=opens, rows=(row(0, start, num_tokens),)))
        assert isinstance(result, StepDone), result
        (token_id,) = result.token_ids
        self.extras += result.extras
        if end < len(self.known):
            assert token_id == self.known[end], "a position that is known has the token that is known"
            assert not any(extra.forced_ids for extra in result.extras), "nothing is told twice"
            return
        self.known.append(token_id)
        for extra in result.extras:
            self.known += extra.forced_ids
            self.is_complete |= extra.is_complete

    def run(self) -> list[int]:
        start = 0
        while not self.is_complete:
            end = len(self.known)
            self.step(start, end - start)
            start = end
            if self.ahead and not self.is_complete:
                self.step(start, 1)  # planned before the step before was known
                start += 1
        return self.known[len(PROMPT) :]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_the_output_is_that_of_the_grammar(key: str, jumps: bool, ahead: bool) -> None:
    drive = Drive(runner(jumps_forward=jumps), opening(key), ahead=ahead and jumps)
    assert drive.run() == alone(key)
    if jumps and not ahead:
        choices = [i for i in range(len(alone(key))) if len(allowed_ids(key, alone(key)[:i], VOCAB_SIZE)) > 1]
        assert drive.num_steps <= len(choices) + 1, "forced tokens cost no step"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("num_kept", [1, 2, 3, 5])
def test_a_retracted_sequence_goes_on_where_it_was(key: str, num_kept: int) -> None:
    output = tuple(alone(key)[:num_kept])
    if output == tuple(alone(key)):
        return
    assert Drive(runner(), opening(key, output)).run() == alone(key)


@pytest.mark.parametrize("key", KEYS)
def test_who_wants_log_probabilities_gets_the_same_tokens_one_by_one(key: str) -> None:
    drive = Drive(runner(), opening(key, logprobs=LogprobOptions(num_top=1)))
    assert drive.run() == alone(key)
    assert drive.num_steps == len(alone(key))
    assert [extra.logprobs.token_ids for extra in drive.extras if extra.logprobs] == [(t,) for t in alone(key)]
    assert not any(extra.forced_ids for extra in drive.extras)


def test_a_grammar_that_is_not_in_the_store_fails_its_request_alone() -> None:
    executor = runner({"lost"})
    other = msgspec.structs.replace(opening(None), slot=1, pages=(8, 9, 10))
    rows = (row(0, 0, 6), StepRow(slot=1, start=0, num_tokens=6, sample=True))
    result = executor.run(StepPlan(step_id=0, opens=(opening("lost"), other), rows=rows))
    assert isinstance(result, StepDone)
    (extra,) = result.extras
    assert extra.failure is not None
    assert (extra.row, extra.failure.status, extra.failure.code) == (0, 503, GRAMMAR_DROPPED)
    assert result.token_ids[1] == next_token(PROMPT, VOCAB_SIZE)


def test_a_lost_grammar_is_told_by_the_first_chunk() -> None:
    result = runner({"lost"}).run(StepPlan(step_id=0, opens=(opening("lost"),), rows=(row(0, 0, 2, sample=False),)))
    assert isinstance(result, StepDone)
    assert [extra.failure is not None for extra in result.extras] == [True]


def test_a_grammar_and_a_ban_that_leave_nothing_fail_the_request() -> None:
    key = next(key for key in KEYS if len(allowed_ids(key, (), VOCAB_SIZE)) > 1)
    banned = dict.fromkeys(allowed_ids(key, (), VOCAB_SIZE), -100.0)
    drive = Drive(runner(), opening(key, params=SamplingParams(temperature=0.0, logit_bias=banned)))
    drive.step(0, 6)
    assert drive.known[-1] in allowed_ids(key, (), VOCAB_SIZE), "a bias is no ban"


def test_the_scripted_token_agrees_with_the_fake() -> None:
    """The fake executor and this one mean the same by a grammar."""
    for key in KEYS:
        token_id = constrained_token(PROMPT, len(PROMPT), key, VOCAB_SIZE)
        assert token_id in allowed_ids(key, (), VOCAB_SIZE)


def test_a_processor_changes_the_choice_and_what_it_raises_ends_its_request_alone() -> None:
    params = SamplingParams(
        temperature=0.0, logit_processor="Shout", custom_params={"token_id": 77, "num_tokens": 1}, logit_bias={3: 1.0}
    )
    executor = runner()
    drive = Drive(executor, opening(None, params=params, logprobs=LogprobOptions()))
    drive.step(0, 6)
    drive.step(6, 1)
    assert drive.known[-2:] == [77, 77]
    drive.step(7, 1)
    assert drive.known[-1] == INVALID_TOKEN
    failure = drive.extras[-1].failure
    assert failure is not None
    assert (failure.status, failure.param, failure.code) == (400, "custom_params", "logit_processor_failed")
    assert "as told" not in failure.message
    logprobs = drive.extras[0].logprobs
    assert logprobs is not None
    assert logprobs.values[0] is not None
    assert logprobs.values[0] < -5.0, "the model's own"


def test_a_processor_can_not_undo_a_grammar() -> None:
    key = next(key for key in KEYS if len(allowed_ids(key, (), VOCAB_SIZE)) > 1)
    params = SamplingParams(temperature=0.0, logit_processor="Shout", custom_params={"token_id": 77, "num_tokens": 99})
    assert Drive(runner(), opening(key, params=params)).run() == alone(key)


def test_an_unknown_processor_fails_its_request() -> None:
    drive = Drive(runner(), opening(None, params=SamplingParams(logit_processor="Whisper")))
    drive.step(0, 6)
    failure = drive.extras[0].failure
    assert failure is not None
    assert failure.status == 400
