"""The fake executor answers like an honest one, and notices dishonest plans."""

from __future__ import annotations

import pytest

from runtime.executor.port import ExecutorLimits
from runtime.messages import INVALID_TOKEN, SlotOpen, StepDone, StepFailed, StepPlan, StepRow
from runtime.params import SamplingParams
from tests.fakes.executor import BrokenPlan, FakeExecutor, expected_output, next_token

LIMITS = ExecutorLimits(num_pages=8, page_size=4, num_slots=3, context_length=16, vocab_size=1000)
PROMPT = (1, 2, 3, 4, 5, 6)
Result = StepDone | StepFailed


def started(**options: object) -> tuple[FakeExecutor, list[Result]]:
    executor = FakeExecutor(LIMITS, **options)  # type: ignore[arg-type]
    results: list[Result] = []
    executor.start(results.append)
    return executor, results


def opened(slot: int, pages: tuple[int, ...], token_ids: tuple[int, ...] = PROMPT, **params: int) -> SlotOpen:
    return SlotOpen(
        slot=slot, token_ids=token_ids, num_prompt_tokens=len(token_ids), pages=pages, params=SamplingParams(**params)
    )


def row(slot: int, start: int, num_tokens: int, new_pages: tuple[int, ...] = (), *, sample: bool = True) -> StepRow:
    return StepRow(slot=slot, start=start, num_tokens=num_tokens, new_pages=new_pages, sample=sample)


def run(executor: FakeExecutor, plan: StepPlan) -> tuple[int, ...]:
    executor.submit(plan)
    result = executor.step()
    assert isinstance(result, StepDone)
    return result.token_ids


def test_chunks_growth_and_a_plan_ahead_give_the_expected_output() -> None:
    executor, results = started()
    executor.submit(StepPlan(step_id=0, opens=(opened(1, (5, 2)),), rows=(row(1, 0, 3, sample=False),)))
    executor.submit(StepPlan(step_id=1, rows=(row(1, 3, 3),)))
    executor.submit(StepPlan(step_id=2, rows=(row(1, 6, 1),)))
    executor.submit(StepPlan(step_id=3, rows=(row(1, 7, 1),)))
    executor.submit(StepPlan(step_id=4, rows=(row(1, 8, 1, (7,)),)))
    while executor.step():
        pass
    output = [token_id for result in results if isinstance(result, StepDone) for token_id in result.token_ids]
    assert output == expected_output(PROMPT, 4, LIMITS.vocab_size)


def test_a_prefix_hit_reads_what_another_slot_wrote() -> None:
    executor, _ = started()
    run(executor, StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    hit = (1, 2, 3, 4, 9)
    assert run(executor, StepPlan(step_id=1, opens=(opened(1, (0, 2), hit),), rows=(row(1, 4, 1),))) == (next_token(hit, 1000),)


def test_a_wrong_page_changes_the_output() -> None:
    executor, _ = started()
    run(executor, StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    wrong_hit = (1, 2, 3, 99, 9)
    plan = StepPlan(step_id=1, opens=(opened(1, (0, 2), wrong_hit),), rows=(row(1, 4, 1),))
    assert run(executor, plan) != (next_token(wrong_hit, 1000),)


def test_a_page_reissued_too_early_changes_the_output() -> None:
    executor, _ = started()
    first = run(executor, StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    run(executor, StepPlan(step_id=1, opens=(opened(1, (0, 2), (7, 7, 7)),), rows=(row(1, 0, 3),)))
    assert run(executor, StepPlan(step_id=2, rows=(row(0, 6, 1),))) != (next_token((*PROMPT, *first), 1000),)


def test_masked_ids_are_skipped_until_enough_is_generated() -> None:
    executor, _ = started()
    token_id = next_token(PROMPT, 1000)
    params = SamplingParams(min_new_tokens=1)
    opening = SlotOpen(slot=0, token_ids=PROMPT, num_prompt_tokens=6, pages=(0, 1), params=params, masked_token_ids=(token_id,))
    assert run(executor, StepPlan(step_id=0, opens=(opening,), rows=(row(0, 0, 6),))) == ((token_id + 1) % 1000,)


@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(step_id=1, rows=(row(2, 0, 1),)),
        StepPlan(step_id=1, rows=(row(0, 7, 1),)),
        StepPlan(step_id=1, rows=(row(0, 5, 1),)),
        StepPlan(step_id=1, rows=(row(0, 6, 0),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1, (8,)),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1, (0,)),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1), row(0, 6, 1))),
        StepPlan(step_id=1, opens=(opened(0, (2, 3)),), rows=()),
        StepPlan(step_id=1, opens=(opened(3, (2, 3)),), rows=()),
        StepPlan(step_id=1, opens=(opened(1, (2, 3), (1000,)),), rows=()),
        StepPlan(step_id=1, opens=(opened(1, (2,)),), rows=(row(1, 0, 6),)),
        StepPlan(step_id=1, opens=(opened(1, (2, 1)),), rows=(row(0, 6, 1), row(1, 0, 6))),
        StepPlan(step_id=1, opens=(opened(1, (2, 3)),), rows=(row(1, 5, 1),)),
    ],
    ids=[
        "closed slot", "ahead of its tokens", "samples inside", "no tokens", "no such page", "page twice", "slot twice",
        "open twice", "no such slot", "no such token", "too few pages", "two writers", "reads what nobody wrote",
    ],
)  # fmt: skip
def test_broken_plans_raise(plan: StepPlan) -> None:
    executor, _ = started()
    run(executor, StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    executor.submit(plan)
    with pytest.raises(BrokenPlan):
        executor.step()


def test_an_injected_failure_loses_its_slots_and_no_others() -> None:
    executor, results = started()
    run(executor, StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    executor.fail_next("out of memory")
    executor.submit(StepPlan(step_id=1, opens=(opened(1, (2, 3)),), rows=(row(1, 0, 6),)))
    executor.submit(StepPlan(step_id=2, rows=(row(0, 6, 1), row(1, 6, 1))))
    assert executor.step() == StepFailed(step_id=1, reason="out of memory")
    result = executor.step()
    assert isinstance(result, StepDone)
    assert result.token_ids == (expected_output(PROMPT, 2, 1000)[1], INVALID_TOKEN)
    assert [r.step_id for r in results] == [0, 1, 2]


def test_invalid_logits_are_reported_for_their_slot() -> None:
    executor, _ = started(invalid_slots={1})
    opens = (opened(0, (0, 1)), opened(1, (2, 3)))
    plan = StepPlan(step_id=0, opens=opens, rows=(row(0, 0, 6), row(1, 0, 6)))
    assert run(executor, plan) == (next_token(PROMPT, 1000), INVALID_TOKEN)


def test_reset_answers_nothing_and_forgets_slots_but_not_pages() -> None:
    calls = []
    executor, results = started(schedule=calls.append)
    executor.submit(StepPlan(step_id=0, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    executor.reset()
    executor.start(results.append)
    executor.submit(StepPlan(step_id=7, opens=(opened(0, (0, 1)),), rows=(row(0, 0, 6),)))
    assert (len(calls), executor.num_pending) == (2, 1)
    calls[0]()
    assert results == [], "the call for the forgotten plan does not run the new one early"
    calls[1]()
    assert [result.step_id for result in results] == [7]


def test_no_plan_is_taken_after_stop() -> None:
    executor, results = started()
    executor.submit(StepPlan(step_id=0, rows=()))
    executor.stop()
    assert executor.step() is None
    assert results == []
    with pytest.raises(BrokenPlan):
        executor.submit(StepPlan(step_id=1, rows=()))
