"""What always holds in the scheduler's state, whatever comes in. Checked by tests and by the simulator after each step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runtime.scheduling.request import Request, Stage

if TYPE_CHECKING:
    from runtime.scheduling.state import Scheduling


def check_invariants(state: Scheduling) -> None:
    """Raise `AssertionError` that names the first thing that is wrong."""
    _check_places(state)
    _check_slots(state)
    _check_pages(state)
    _check_steps(state)
    for request in state.requests.values():
        _check_progress(state, request)


def _check_places(state: Scheduling) -> None:
    running = state.batch.requests()
    reserving = list(state.admission.reserving.values())
    assert len(set(running)) == len(running), "a request is in the batch twice"
    for request_id, request in state.requests.items():
        assert request.request_id == request_id
        assert request.stage is not Stage.ENDED, "an ended request is kept"
        assert (request.stage is Stage.RUNNING) == (request in running), "stage and batch disagree"
        assert (request.stage is Stage.RESERVING) == (request in reserving), "stage and reservations disagree"
        assert not request.is_queued or request.stage is Stage.WAITING, "a queued request does not wait"
    for request in [*running, *reserving]:
        assert state.requests.get(request.request_id) is request, "an ended request holds a place"
    num_queued = sum(request.is_queued for request in state.requests.values())
    assert num_queued == len(state.admission.queue), "the queue miscounts"
    _check_held(state)


def _check_held(state: Scheduling) -> None:
    """A request that is held back is held by one that will publish, so that nobody waits for ever."""
    held: Counter[Request] = Counter()
    for leader in state.requests.values():
        live = [request for _, request in leader.followers if request.stage is Stage.WAITING]
        assert not live or leader.stage in (Stage.RESERVING, Stage.RUNNING), "held back behind one that does not run"
        held.update(live)
    for request in state.requests.values():
        if request.stage is Stage.WAITING:
            is_waiting_for_grammar = state.awaits_grammar(request)
            assert held[request] + request.is_queued + is_waiting_for_grammar == 1, "a waiting request is in no one place"
    for leader in state.admission.leaders.leaders():
        assert leader.stage in (Stage.RESERVING, Stage.RUNNING), "a leader does not run"


def _check_slots(state: Scheduling) -> None:
    slots = [request.slot for request in state.batch.requests()]
    assert sorted(slots + state.batch.free_slots) == list(range(state.batch.num_slots)), "slots are lost or given twice"
    assert len(state.admission.reserving) <= len(state.batch.free_slots), "more is reserved than there are slots"


def _check_pages(state: Scheduling) -> None:
    running = set(state.batch.requests())
    leases = state.ledger.leases
    assert {request.lease_id: request for request in running} == leases, "leases and batch disagree"
    for request in [*state.ledger.wanting, *state.ledger.stalled]:
        assert request in running, "pages are asked for a request that does not run"
    assert not state.ledger.wanting.keys() & state.ledger.stalled.keys(), "a request both wants pages and is stalled"


def _check_steps(state: Scheduling) -> None:
    assert len(state.in_flight) <= state.max_in_flight, "too many steps are in flight"
    rows: Counter[Request] = Counter()
    for step in state.in_flight:
        num_tokens = sum(row.num_tokens for row in step.plan.rows)
        assert 0 < num_tokens <= state.batch.budget_tokens, "a step breaks the token budget"
        assert num_tokens == step.num_prefill_tokens + step.num_decode_tokens, "a step miscounts its tokens"
        assert len(set(step.requests)) == len(step.requests) == len(step.plan.rows), "a step has a request twice"
        rows.update(step.requests)
    for request in state.requests.values():
        assert request.num_in_flight_rows == rows[request], "rows in flight are miscounted"


def _check_progress(state: Scheduling, request: Request) -> None:
    assert len(request.output_ids) <= request.max_new_tokens, "more is generated than was asked for"
    if request.stage is not Stage.RUNNING:
        return
    assert request.num_computed_tokens <= request.num_planned_tokens <= request.capacity_tokens, "a row has no page"
    num_known = request.num_known_tokens
    num_sampling = sum(
        row.sample and row.start + row.num_tokens >= num_known
        for step in state.in_flight
        for row, owner in zip(step.plan.rows, step.requests, strict=True)
        if owner is request
    )
    assert request.length == num_known + num_sampling, "known and sampled tokens are miscounted"
    assert request.num_planned_tokens <= request.num_target_tokens, "more is planned than is needed"
    is_short = request.capacity_tokens <= request.num_planned_tokens < request.num_target_tokens
    is_asked = request in state.ledger.wanting or request in state.ledger.stalled
    assert not is_short or is_asked, "a request without pages does not ask for any"
