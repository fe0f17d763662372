"""Which graph a step takes, and how it is filled up."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock import SystemClock
from runtime.executor.device_runner import DeviceRunner
from runtime.executor.device_table import DeviceTable
from runtime.executor.graphs import DecodeGraphs, make_buckets
from runtime.layers.forward import ForwardBatch, KVCache, Queries
from tests.executor.fake_port import FakePort
from tests.executor.toy_model import LIMITS, ToyModel, make_kv


def test_the_buckets_up_to_the_default() -> None:
    assert make_buckets(256) == (1, 2, 4, 8, *range(16, 257, 8))


@pytest.mark.parametrize(
    ("most", "expected"),
    [(0, ()), (1, (1,)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9)), (20, (1, 2, 4, 8, 16, 20))],
)
def test_the_largest_bucket_is_the_one_asked_for(most: int, expected: tuple[int, ...]) -> None:
    assert make_buckets(most) == expected


@given(most=st.integers(1, 600))
def test_buckets_ascend_and_waste_little(most: int) -> None:
    buckets = make_buckets(most)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == most
    assert all(after - before <= max(8, before) for before, after in pairwise(buckets))


def graphs(buckets: tuple[int, ...]) -> tuple[DecodeGraphs, FakePort]:
    port = FakePort()
    return DecodeGraphs(port, DeviceTable(LIMITS, port.device, scratch_page=LIMITS.num_pages), buckets), port


def test_a_step_takes_the_next_larger_graph() -> None:
    found, _ = graphs((1, 2, 4))
    assert found.bucket_for(1) is None, "nothing is recorded yet"
    found.capture(ToyModel(), make_kv(num_scratch_pages=1))
    assert [found.bucket_for(num_rows) for num_rows in range(6)] == [None, 1, 2, 4, 4, None]
    found.clear()
    assert found.bucket_for(1) is None


class Recorder(ToyModel):
    """Keeps the last batch."""

    def hidden_states(self, batch: ForwardBatch, kv: KVCache, wanted: Queries | None = None):  # type: ignore[no-untyped-def]
        self.batch = batch
        return super().hidden_states(batch, kv, wanted)


def test_while_it_is_recorded_only_the_scratch_page_is_used() -> None:
    found, port = graphs((2, 4))
    model = Recorder()
    found.capture(model, make_kv(num_scratch_pages=1))
    assert len(port.graphs[0].output) == 4, "the largest first"
    batch = model.batch
    assert set(batch.page_tables.flatten().tolist()) == {LIMITS.num_pages}
    assert (set(batch.kv_lengths.tolist()), set(batch.positions.tolist())) == ({1}, {0})
    assert set(batch.write_slots.tolist()) == {LIMITS.num_pages * LIMITS.page_size}


def test_memory_that_is_exchanged_is_not_replayed_with_old_graphs() -> None:
    port, kv = FakePort(), make_kv(num_scratch_pages=1)
    runner = DeviceRunner(ToyModel(), kv, LIMITS, port, SystemClock(), buckets=(1, 2))
    runner.kv = kv
    runner.refresh()
    assert runner._graphs.bucket_for(1) == 1
    runner.kv = None
    assert runner._graphs.bucket_for(1) is None
    runner.refresh()
    assert len(port.graphs) == 2, "nothing can be recorded without a cache"
