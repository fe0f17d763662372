from __future__ import annotations

from runtime.messages import SlotOpen, StepPlan, StepRow
from runtime.scheduling.batching import Batch
from runtime.scheduling.request import Request
from tests.scheduling.conftest import make_request


def join(batch: Batch, request: Request, num_cached_tokens: int = 0) -> Request:
    num_pages = request.num_reserved_tokens // request.page_size
    pages = tuple(range(100 * request.request_id, 100 * request.request_id + num_pages))
    request.begin_run(request.request_id, pages, num_cached_tokens)
    batch.join(request)
    return request


def plan(batch: Batch, step_id: int) -> StepPlan:
    step = batch.plan(step_id)
    assert step is not None
    return step.plan


def test_a_prompt_is_cut_where_the_budget_ends_and_sampled_at_its_end() -> None:
    batch = Batch(num_slots=1, budget_tokens=4)
    request = join(batch, make_request(1, range(10)))
    rows = [plan(batch, step_id).rows for step_id in (1, 2, 3)]
    assert rows == [
        (StepRow(slot=request.slot, start=0, num_tokens=4, sample=False),),
        (StepRow(slot=request.slot, start=4, num_tokens=4, sample=False),),
        (StepRow(slot=request.slot, start=8, num_tokens=2, sample=True),),
    ]


def test_a_prefix_hit_is_not_computed_again() -> None:
    batch = Batch(num_slots=1, budget_tokens=100)
    request = join(batch, make_request(1, range(10)), num_cached_tokens=8)
    assert plan(batch, 1).rows == (StepRow(slot=request.slot, start=8, num_tokens=2, sample=True),)


def test_a_slot_is_opened_once_with_all_its_pages() -> None:
    batch = Batch(num_slots=1, budget_tokens=4)
    request = join(batch, make_request(1, range(10)))
    assert plan(batch, 1).opens == (
        SlotOpen(
            slot=request.slot, token_ids=tuple(range(10)), num_prompt_tokens=10, pages=(100, 101, 102), params=request.params
        ),
    )
    assert plan(batch, 2).opens == ()


def test_decodes_go_first_and_prefills_get_the_rest() -> None:
    batch = Batch(num_slots=3, budget_tokens=5)
    first = join(batch, make_request(1, [1, 2]))
    plan(batch, 1)
    second, third = join(batch, make_request(2, range(3))), join(batch, make_request(3, range(9)))
    rows = plan(batch, 2).rows
    assert [(row.slot, row.num_tokens, row.sample) for row in rows] == [
        (first.slot, 1, True),
        (second.slot, 3, True),
        (third.slot, 1, False),
    ]


def test_a_decode_is_planned_before_the_token_before_is_known() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    request = join(batch, make_request(1, [1, 2], max_new_tokens=3))
    starts = [plan(batch, step_id).rows[0].start for step_id in (1, 2, 3)]
    assert starts == [0, 2, 3]
    assert request.num_in_flight_rows == 3


def test_nothing_is_planned_beyond_the_last_token() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    join(batch, make_request(1, [1, 2], max_new_tokens=2))
    plan(batch, 1)
    plan(batch, 2)
    assert batch.plan(3) is None


def test_no_tokens_wanted_means_no_sample() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    request = join(batch, make_request(1, [1, 2], max_new_tokens=0))
    assert plan(batch, 1).rows == (StepRow(slot=request.slot, start=0, num_tokens=2, sample=False),)
    assert batch.plan(2) is None


def test_a_row_without_a_page_waits_and_then_brings_it() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    request = join(batch, make_request(1, range(4)))
    step = batch.plan(1)
    assert step is not None
    assert step.wanting == [request]
    assert batch.plan(2) is None
    request.grow((55,))
    assert plan(batch, 2).rows == (StepRow(slot=request.slot, start=4, num_tokens=1, new_pages=(55,), sample=True),)


def test_a_page_is_asked_for_one_step_ahead() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    request = join(batch, make_request(1, range(3)))
    wanting = [step.wanting for step in (batch.plan(1), batch.plan(2)) if step is not None]
    assert wanting == [[], [request]]


def test_no_page_is_asked_for_the_last_token() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    join(batch, make_request(1, range(4), max_new_tokens=1))
    step = batch.plan(1)
    assert step is not None
    assert step.wanting == []


def test_a_small_budget_goes_round() -> None:
    batch = Batch(num_slots=3, budget_tokens=3)
    for number in range(3):
        join(batch, make_request(number, [1], max_new_tokens=30)).grow((1, 2, 3, 4, 5, 6, 7))
    plan(batch, 1)
    batch.budget_tokens = 2
    num_rows = [0, 0, 0]
    for step_id in range(2, 14):
        for row in plan(batch, step_id).rows:
            num_rows[row.slot] += 1
    assert num_rows == [8, 8, 8]


def test_a_slot_can_be_closed_and_opened_in_one_plan() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    first = join(batch, make_request(1, [1, 2]))
    plan(batch, 1)
    batch.leave(first)
    second = join(batch, make_request(2, [1, 2]))
    closing = plan(batch, 2)
    assert closing.closes == (first.slot,) == (second.slot,)
    assert [opened.slot for opened in closing.opens] == [second.slot]
    assert batch.plan(3) is not None
    assert batch.closes == []


def test_closes_wait_for_a_plan_with_rows() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    request = join(batch, make_request(1, [1, 2]))
    plan(batch, 1)
    batch.leave(request)
    assert batch.plan(2) is None
    join(batch, make_request(2, [1, 2]))
    assert plan(batch, 2).closes == (request.slot,)


def test_a_slot_that_was_never_opened_is_not_closed() -> None:
    batch = Batch(num_slots=1, budget_tokens=8)
    batch.leave(join(batch, make_request(1, [1, 2])))
    assert batch.closes == []
    assert batch.free_slots == [0]
