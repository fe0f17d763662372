"""Collectives between processes: what arrives where, and what happens when one does not come."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from runtime.errors import ConfigError, RankLost, StartError
from runtime.layers.gloo_group import GlooGroup
from runtime.layers.rank_group import check_agreement
from tests.rank_pool import TIMEOUT_S, RankPool, free_port

WIDTHS = (3, 1, 2)


def add_up(group: GlooGroup, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    x = random(shape, group.rank).to(dtype)
    group.all_reduce_sum(x)
    return x


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gather(group: GlooGroup, num_rows: int, dtype: torch.dtype) -> torch.Tensor:
    part = torch.full((num_rows, WIDTHS[group.rank]), float(group.rank), dtype=dtype)
    return group.gather_columns(part, WIDTHS)


def hand_out(group: GlooGroup) -> list[float]:
    x = torch.arange(4.0) * (1 if group.rank == 0 else -1)
    group.broadcast(x)
    return x.tolist()


def find_least(group: GlooGroup) -> list[int]:
    return [group.least(value) for value in (10 + group.rank, 10 - group.rank, -group.rank, 10**12)]


def count_local(group: GlooGroup) -> int:
    return group.num_local


def agree(group: GlooGroup, fingerprints: tuple[int, ...]) -> None:
    check_agreement(group, fingerprints[group.rank], "the model")


def die_in_the_middle(group: GlooGroup) -> None:
    group.all_reduce_sum(torch.ones(8))
    if group.rank == 1:
        os._exit(9)
    group.all_reduce_sum(torch.ones(8))


def be_handed(group: GlooGroup) -> None:
    group.broadcast(torch.ones(8))


def compare(group: GlooGroup) -> None:
    group.least(1)


def wait_for_each_other(group: GlooGroup, wait: Callable[[GlooGroup], None]) -> None:
    """Rank 1 waits for rank 0, which waits for it in another collective, until a thread of rank 1 breaks that off."""
    if group.rank == 1:
        threading.Timer(0.1, group.abort).start()
        wait(group)
    group.gather_columns(torch.ones(8, WIDTHS[group.rank]), WIDTHS[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_sums_are_in_the_order_of_ranks(rank_pool: RankPool, num_ranks: int, dtype: torch.dtype) -> None:
    parts = [random((5, 7), rank).to(dtype).float() for rank in range(num_ranks)]
    expected = sum(parts[1:], parts[0]).to(dtype)
    for actual in rank_pool.run(num_ranks, add_up, (5, 7), dtype):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("num_rows", "dtype"), [(4, torch.float32), (1, torch.bfloat16)])
def test_columns_come_together_on_rank_0(rank_pool: RankPool, num_rows: int, dtype: torch.dtype) -> None:
    whole, *parts = rank_pool.run(3, gather, num_rows, dtype)
    assert whole.dtype == dtype
    assert whole.tolist() == [[0.0] * 3 + [1.0] + [2.0] * 2] * num_rows
    assert [tuple(part.shape) for part in parts] == [(num_rows, 1), (num_rows, 2)]


def test_rank_0_hands_out(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, hand_out) == [[0.0, 1.0, 2.0, 3.0]] * 3


def test_the_least(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, find_least) == [[10, 8, -2, 10**12]] * 3


def test_ranks_of_one_machine_know_that_they_share_it(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, count_local) == [3, 3, 3]


def test_agreement(rank_pool: RankPool) -> None:
    rank_pool.run(2, agree, (7, 7))
    for future in rank_pool.submit(2, agree, (7, 8)):
        with pytest.raises(ConfigError, match="agree on the model"):
            future.result(TIMEOUT_S)


def test_a_rank_that_dies_in_a_collective(rank_pool: RankPool) -> None:
    first, second, third = rank_pool.submit(3, die_in_the_middle)
    for survivor in (first, third):
        with pytest.raises(RankLost, match="could not add up"):
            survivor.result(TIMEOUT_S)
    with pytest.raises(BrokenProcessPool):
        second.result(TIMEOUT_S)
    rank_pool.revive(1)


@pytest.mark.parametrize("wait", [be_handed, compare])
def test_breaking_off(rank_pool: RankPool, wait: Callable[[GlooGroup], None]) -> None:
    first, second = rank_pool.submit(2, wait_for_each_other, wait, timeout_s=3.0)  # the process is held for so long
    with pytest.raises(RankLost, match="broken off"):
        second.result(TIMEOUT_S)
    with pytest.raises(RankLost, match="could not gather"):
        first.result(TIMEOUT_S)


def test_ranks_that_do_not_come() -> None:
    with pytest.raises(StartError, match="2 ranks can not meet"):
        GlooGroup.connect("127.0.0.1", free_port(), rank=0, size=2, start_timeout_s=0.5)
