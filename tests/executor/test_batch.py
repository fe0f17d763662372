"""The batch table beside a slow reference of plain lists, under random plans."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runtime.executor.batch import BatchTable
from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import ForwardBatch
from runtime.messages import INVALID_TOKEN, SlotOpen, StepPlan, StepRow
from runtime.params import SamplingParams
from tests.executor.toy_model import GREEDY, LIMITS, opened, row

SPECIAL = SamplingParams(temperature=1.0, seed=5)


@dataclass
class Sequence:
    token_ids: list[int]
    pages: list[int]
    params: SamplingParams
    num_computed: int = 0
    is_lost: bool = False


def reference_batch(rows: list[tuple[Sequence, int, int, bool]], page_size: int) -> dict[str, list[object]]:
    """The fields of a `ForwardBatch`, token by token."""
    fields: dict[str, list[object]] = {name: [] for name in ForwardBatch.__dataclass_fields__}
    fields["query_starts"].append(0)
    width = max(-(-end // page_size) for _, _, end, _ in rows)
    for sequence, start, end, is_sampled in rows:
        for position in range(start, end):
            fields["token_ids"].append(sequence.token_ids[position])
            fields["positions"].append(position)
            fields["write_slots"].append(sequence.pages[position // page_size] * page_size + position % page_size)
        fields["query_starts"].append(len(fields["token_ids"]))
        fields["kv_lengths"].append(end)
        fields["page_tables"].append(sequence.pages[:width])
        if is_sampled:
            fields["logit_rows"].append(len(fields["token_ids"]) - 1)
    return fields


class BatchTableMachine(RuleBasedStateMachine):
    """Opens, closes and steps of random sizes; `rng` fills in the details so that the rules stay few."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = ExecutorLimits(num_pages=64, page_size=4, num_slots=4, context_length=26, vocab_size=500)
        self.table = BatchTable(self.limits)
        self.sequences: dict[int, Sequence] = {}
        self.closes: list[int] = []
        self.opens: list[SlotOpen] = []

    @rule(slot=st.integers(0, 3))
    def close(self, slot: int) -> None:
        if slot in self.sequences and slot not in {opening.slot for opening in self.opens}:
            del self.sequences[slot]
            self.closes.append(slot)

    @rule(slot=st.integers(0, 3), num_tokens=st.integers(1, 26), is_special=st.booleans(), seed=st.integers(0, 99))
    def open(self, slot: int, num_tokens: int, is_special: bool, seed: int) -> None:
        if slot in self.sequences:
            return
        rng = random.Random(seed)
        token_ids = [rng.randrange(500) for _ in range(num_tokens)]
        pages = [rng.randrange(64) for _ in range(rng.randint(1, -(-num_tokens // 4)))]
        params = SPECIAL if is_special else GREEDY
        self.sequences[slot] = Sequence(token_ids, pages, params)
        self.opens.append(opened(slot, tuple(pages), tuple(token_ids), params))

    @rule(seed=st.integers(0, 2**16), fails=st.sampled_from([False, False, False, True]))
    def step(self, seed: int, fails: bool) -> None:
        rng = random.Random(seed)
        slots = [slot for slot in self.sequences if rng.random() < 0.8 and self.can_go_on(slot)]
        rng.shuffle(slots)
        planned = [self.planned_row(slot, rng) for slot in slots]
        plan = StepPlan(step_id=0, closes=tuple(self.closes), opens=tuple(self.opens), rows=tuple(planned))
        self.closes, self.opens = [], []
        prepared = self.table.prepare(plan)
        self.compare(planned, prepared.batch)
        live = [r for r in planned if not self.sequences[r.slot].is_lost]
        sampled = [r for r in live if r.sample]
        specials = [(i, r) for i, r in enumerate(sampled) if self.sequences[r.slot].params is SPECIAL]
        assert [special.index for special in prepared.special_rows] == [i for i, _ in specials]
        for special, (_, planned_row) in zip(prepared.special_rows, specials, strict=True):
            assert special.history.tolist() == self.sequences[planned_row.slot].token_ids
        if fails:
            self.table.lose(plan)
            for slot in (*slots, *(opening.slot for opening in plan.opens)):
                self.sequences[slot].is_lost = True
            return
        token_ids = [rng.choice((INVALID_TOKEN, rng.randrange(500), rng.randrange(500))) for _ in sampled]
        answer = self.table.commit(prepared, np.array(token_ids, dtype=np.int64))
        self.remember(planned, answer, token_ids)

    def can_go_on(self, slot: int) -> bool:
        sequence = self.sequences[slot]
        return sequence.num_computed < min(len(sequence.token_ids), self.limits.context_length)

    def planned_row(self, slot: int, rng: random.Random) -> StepRow:
        sequence = self.sequences[slot]
        start = sequence.num_computed
        end = rng.randint(start + 1, len(sequence.token_ids))
        new_pages = tuple(rng.randrange(64) for _ in range(-(-end // 4) - len(sequence.pages)))
        sequence.pages += new_pages
        is_sampled = end == len(sequence.token_ids) and rng.random() < 0.9
        if is_sampled or end < len(sequence.token_ids):
            sequence.num_computed = end
        return row(slot, start, end - start, new_pages, sample=is_sampled)

    def compare(self, planned: list[StepRow], batch: ForwardBatch | None) -> None:
        sequences = [(self.sequences[r.slot], r.start, r.start + r.num_tokens, r.sample) for r in planned]
        live = [entry for entry in sequences if not entry[0].is_lost]
        if not live:
            assert batch is None
            return
        assert batch is not None
        expected = reference_batch(live, self.limits.page_size)
        page_tables = expected.pop("page_tables")
        for name, values in expected.items():
            assert getattr(batch, name).tolist() == values, name
        for actual, pages in zip(batch.page_tables.tolist(), page_tables, strict=True):
            assert isinstance(pages, list)
            assert actual[: len(pages)] == pages

    def remember(self, planned: list[StepRow], answer: tuple[int, ...], token_ids: list[int]) -> None:
        expected = []
        left = iter(token_ids)
        for planned_row in planned:
            if planned_row.sample:
                sequence = self.sequences[planned_row.slot]
                expected.append(INVALID_TOKEN if sequence.is_lost else next(left))
                if not sequence.is_lost:
                    sequence.token_ids.append(max(expected[-1], 0))
        assert list(answer) == expected

    @invariant()
    def lost_slots_stay_lost(self) -> None:
        opening = {opened.slot for opened in self.opens}
        for slot, sequence in self.sequences.items():
            if slot not in opening:
                assert bool(self.table._is_lost[slot]) == sequence.is_lost


TestBatchTable = BatchTableMachine.TestCase
TestBatchTable.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_dtypes_and_shapes() -> None:
    table = BatchTable(LIMITS)
    step = table.prepare(StepPlan(step_id=0, opens=(opened(1, (3, 1)),), rows=(row(1, 0, 6),)))
    batch = step.batch
    assert batch is not None
    dtypes = {name: str(getattr(batch, name).dtype).removeprefix("torch.") for name in ForwardBatch.__dataclass_fields__}
    assert dtypes == {name: "int64" if name in ("token_ids", "logit_rows") else "int32" for name in dtypes}
    assert batch.page_tables.tolist() == [[3, 1]], "as wide as the widest row"
    assert all(getattr(batch, name).is_contiguous() for name in ForwardBatch.__dataclass_fields__)


@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(step_id=1, rows=(row(1, 0, 1),)),
        StepPlan(step_id=1, rows=(row(3, 0, 1),)),
        StepPlan(step_id=1, rows=(row(-3, 6, 1),)),
        StepPlan(step_id=1, rows=(row(0, 7, 1),)),
        StepPlan(step_id=1, rows=(row(0, 7, 1, sample=False),)),
        StepPlan(step_id=1, rows=(row(0, 5, 1),)),
        StepPlan(step_id=1, rows=(row(0, -1, 1),)),
        StepPlan(step_id=1, rows=(row(0, 6, 0),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1, (12,)),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1, (-1,)),)),
        StepPlan(step_id=1, rows=(row(0, 6, 1, (2,) * 7),)),
        StepPlan(step_id=1, opens=(opened(1, (2,)),), rows=(row(1, 0, 6),)),
        StepPlan(step_id=1, opens=(opened(1, (2,), (1,) * 33),), rows=()),
        StepPlan(step_id=1, opens=(opened(3, (2,)),), rows=()),
    ],
    ids=[
        "closed slot", "no such slot", "negative slot", "ahead of its tokens", "computes ahead", "samples inside",
        "before the start", "no tokens", "no such page", "negative page", "too many pages", "too few pages", "too long",
        "opens no such slot",
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_raises_and_the_others_go_on(plan: StepPlan) -> None:
    table = BatchTable(LIMITS)
    opens = (opened(0, (3, 1)), opened(2, (4, 5)))
    step = table.prepare(StepPlan(step_id=0, opens=opens, rows=(row(0, 0, 6), row(2, 0, 6))))
    table.commit(step, np.array([7, 8]))
    with pytest.raises((ValueError, IndexError)):
        table.prepare(plan)
    table.lose(plan)
    step = table.prepare(StepPlan(step_id=2, rows=(row(2, 6, 1),)))
    assert step.batch is not None
    assert step.batch.token_ids.tolist() == [8]
    assert table.commit(step, np.array([9])) == (9,)


def test_a_lost_slot_can_be_opened_again() -> None:
    table = BatchTable(LIMITS)
    plan = StepPlan(step_id=0, opens=(opened(0, (3, 1)),), rows=(row(0, 0, 6),))
    table.prepare(plan)
    table.lose(plan)
    step = table.prepare(StepPlan(step_id=1, rows=(row(0, 6, 1),)))
    assert (step.batch, table.commit(step, np.empty(0, dtype=np.int64))) == (None, (INVALID_TOKEN,))
    step = table.prepare(StepPlan(step_id=2, closes=(0,), opens=plan.opens, rows=plan.rows))
    assert table.commit(step, np.array([5])) == (5,)


def test_clear_closes_every_slot() -> None:
    table = BatchTable(LIMITS)
    table.prepare(StepPlan(step_id=0, opens=(opened(0, (3, 1)),), rows=(row(0, 0, 6),)))
    table.clear()
    with pytest.raises(ValueError, match="slot 0"):
        table.prepare(StepPlan(step_id=1, rows=(row(0, 0, 1),)))
