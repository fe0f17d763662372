"""Grammars and processors on a device, with a step launched before the token of the one before is known."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import pytest

from runtime.executor.extras import Extensions
from runtime.messages import GRAMMAR_DROPPED, INVALID_TOKEN, RowExtra, SlotOpen, StepDone, StepPlan
from runtime.params import LogprobOptions, SamplingParams
from tests.executor.device_bench import DeviceBench
from tests.executor.test_constraints import KEYS, VOCAB_SIZE, Shout, alone, opening
from tests.executor.toy_model import LIMITS, PROMPT, ToyModel, make_kv, row
from tests.fakes.executor import expected_output
from tests.fakes.matcher import ScriptedMatchers, allowed_ids

GRAPHS = [(), (1, 2, 3)]
WIDE = msgspec.structs.replace(LIMITS, num_pages=24)
PAGES = [tuple(range(start, start + 8)) for start in (0, 8, 16)]


def bench(*, jumps_forward: bool = True, buckets: tuple[int, ...] = (), lost: set[str] | None = None) -> DeviceBench:
    matchers = ScriptedMatchers(VOCAB_SIZE, frozenset({0}), lost or set())
    extensions = Extensions(matchers, {"Shout": Shout()}, jumps_forward=jumps_forward)
    return DeviceBench(ToyModel(WIDE), make_kv(WIDE, num_scratch_pages=1), WIDE, extensions, buckets=buckets)


class Client:
    """One sequence as the scheduler sees it: it plans a row as soon as it may, and learns of tokens when a step is complete."""

    def __init__(self, opened: SlotOpen) -> None:
        self.opened = opened
        self.known = list(opened.token_ids)
        self.length = len(self.known)
        self.num_planned = 0
        self.in_flight: deque[tuple[int, int]] = deque()
        self.extras: list[RowExtra] = []
        self.is_complete = False

    def plan(self) -> tuple[int, int] | None:
        """Start and number of tokens of the next row."""
        if self.is_complete or self.num_planned == self.length:
            return None
        start, end = self.num_planned, self.length
        self.num_planned, self.length = end, end + 1
        self.in_flight.append((start, end - start))
        return start, end - start

    def learn(self, token_id: int, extra: RowExtra | None) -> None:
        start, num_tokens = self.in_flight.popleft()
        end = start + num_tokens
        if self.is_complete:
            return
        if end < len(self.known):
            assert token_id == self.known[end], "a position that is known has the token that is known"
        else:
            self.known.append(token_id)
        if extra is not None:
            self.extras.append(extra)
            self.known += extra.forced_ids
            self.is_complete |= extra.is_complete or extra.failure is not None
        self.length = max(self.length, len(self.known))


def drive(device: DeviceBench, clients: list[Client]) -> None:
    """Two steps in flight as long as there is something to plan."""
    planned: deque[list[Client]] = deque()
    num_read = 0
    while submit_next(device, clients, planned) or planned:
        if num_read == len(device.results):
            device.complete()
        for result in device.results[num_read:]:
            num_read += 1
            assert isinstance(result, StepDone), result
            extras = {extra.row: extra for extra in result.extras}
            for index, client in enumerate(planned.popleft()):
                client.learn(result.token_ids[index], extras.get(index))


def submit_next(device: DeviceBench, clients: list[Client], planned: deque[list[Client]]) -> bool:
    """Fill up to two steps in flight. False if there is nothing more to plan now."""
    is_planned = False
    while len(planned) < 2:
        rows = [(slot, client, part) for slot, client in enumerate(clients) if (part := client.plan()) is not None]
        if not rows:
            break
        opens = tuple(msgspec.structs.replace(client.opened, slot=slot) for slot, client, (start, _) in rows if start == 0)
        device.submit(StepPlan(step_id=0, opens=opens, rows=tuple(row(slot, *part) for slot, _, part in rows)))
        planned.append([client for _, client, _ in rows])
        is_planned = True
    return is_planned


def output(client: Client) -> list[int]:
    return client.known[len(PROMPT) :]


@pytest.mark.parametrize("buckets", GRAPHS, ids=["eager", "graphs"])
@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_the_output_is_that_of_the_grammar(key: str, jumps: bool, buckets: tuple[int, ...]) -> None:
    client = Client(opening(key))
    drive(bench(jumps_forward=jumps, buckets=buckets), [client])
    assert output(client) == alone(key)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_a_retracted_sequence_goes_on_where_it_was(key: str, num_kept: int) -> None:
    kept = tuple(alone(key)[:num_kept])
    if kept == tuple(alone(key)):
        return
    client = Client(opening(key, kept))
    drive(bench(), [client])
    assert output(client) == alone(key)


@pytest.mark.parametrize("key", KEYS)
def test_who_wants_log_probabilities_gets_the_same_tokens_one_by_one(key: str) -> None:
    client = Client(opening(key, logprobs=LogprobOptions(num_top=1)))
    drive(bench(), [client])
    assert output(client) == alone(key)
    told = [extra.logprobs.token_ids for extra in client.extras if extra.logprobs]
    assert told == [(token_id,) for token_id in alone(key)]
    assert not any(extra.forced_ids for extra in client.extras)


@pytest.mark.parametrize("index", range(0, len(KEYS), 2))
def test_sequences_under_grammars_and_free_ones_side_by_side(index: int) -> None:
    free = Client(placed(None, 1))
    stop_after(free, 6)
    clients = [Client(placed(KEYS[index], 0)), free, Client(placed(KEYS[index + 1], 2))]
    drive(bench(buckets=(1, 2, 3)), clients)
    assert output(clients[0]) == alone(KEYS[index])
    assert output(free) == expected_output(PROMPT, 6, VOCAB_SIZE)
    assert output(clients[2]) == alone(KEYS[index + 1])


def placed(key: str | None, slot: int) -> SlotOpen:
    """In pages that no other slot has."""
    return msgspec.structs.replace(opening(key), pages=PAGES[slot])


def stop_after(client: Client, num_tokens: int) -> None:
    """As the scheduler ends it by its length."""
    plan = client.plan

    def limited() -> tuple[int, int] | None:
        return plan() if client.num_planned < len(PROMPT) + num_tokens - 1 else None

    client.plan = limited  # type: ignore[method-assign]


def test_a_lost_grammar_fails_its_request_alone() -> None:
    lost, free = Client(placed("lost", 0)), Client(placed(None, 1))
    stop_after(free, 3)
    drive(bench(lost={"lost"}), [lost, free])
    failure = lost.extras[0].failure
    assert failure is not None
    assert (failure.status, failure.code) == (503, GRAMMAR_DROPPED)
    assert output(free) == expected_output(PROMPT, 3, VOCAB_SIZE)


def test_a_processor_sees_the_tokens_of_the_step_before() -> None:
    params = SamplingParams(
        temperature=0.0, logit_processor="Shout", custom_params={"token_id": 77, "num_tokens": 3}, logit_bias={3: 1.0}
    )
    client = Client(opening(None, params=params, logprobs=LogprobOptions()))
    stop_after(client, 5)
    drive(bench(), [client])
    assert output(client) == [77, 77, 77, 77, INVALID_TOKEN]
    failure = client.extras[-1].failure
    assert failure is not None
    assert failure.code == "logit_processor_failed"
    logprobs = client.extras[0].logprobs
    assert logprobs is not None
    assert logprobs.values[0] is not None
    assert logprobs.values[0] < -5.0, "the model's own"


def test_a_processor_can_not_undo_a_grammar() -> None:
    key = next(key for key in KEYS if len(allowed_ids(key, (), VOCAB_SIZE)) > 1)
    params = SamplingParams(temperature=0.0, logit_processor="Shout", custom_params={"token_id": 77, "num_tokens": 99})
    client = Client(opening(key, params=params))
    drive(bench(), [client])
    assert output(client) == alone(key)


def test_penalties_count_the_token_that_is_still_computed() -> None:
    params = SamplingParams(temperature=0.0, frequency_penalty=0.6, logit_bias={7: 5.0, 9: 4.5, 10: 4.1})
    client = Client(opening(None, params=params))
    stop_after(client, 4)
    drive(bench(), [client])
    assert output(client) == [7, 9, 7, 10]


@pytest.mark.parametrize(
    ("fields", "num_replays"), [({"logprobs": LogprobOptions(num_top=2)}, 4), ({"returns_hidden_states": True}, 0)]
)
def test_log_probabilities_come_with_a_graph_and_hidden_states_without(fields: dict[str, Any], num_replays: int) -> None:
    client = Client(opening(None, **fields))
    stop_after(client, 5)
    device = bench(buckets=(1,))
    drive(device, [client])
    assert output(client) == expected_output(PROMPT, 5, VOCAB_SIZE)
    assert len(client.extras) == 5
    assert device.port.graphs[0].num_replays == num_replays
