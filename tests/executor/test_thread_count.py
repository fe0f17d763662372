"""The number of threads: counted from what the system says, and measured where hardware threads leave a choice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernels import native
from runtime.executor import thread_count
from runtime.executor.thread_count import fastest, num_usable_cores, num_usable_cpus


class Machine:
    """A clock on which a step takes as long as its number of threads says."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.num_threads = 0
        self.now = 0.0

    def set_num_threads(self, num_threads: int) -> None:
        self.num_threads = num_threads

    def step(self) -> None:
        self.now += self.seconds[self.num_threads]

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({4: 2.0, 8: 1.0}, 8), ({4: 2.0, 8: 1.95}, 4), ({4: 2.0, 8: 3.0}, 4), ({4: 4.0, 8: 3.0, 16: 2.0}, 16)],
)
def test_another_number_has_to_be_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    machine = Machine(seconds)
    monkeypatch.setattr(native, "set_num_threads", machine.set_num_threads)
    assert fastest(tuple(seconds), machine.step, machine) == expected


@pytest.mark.parametrize(("text", "expected"), [("150000 100000\n", 2), ("max 100000\n", 0), ("50000 100000", 1), ("", None)])
def test_a_containers_quota_is_kept(tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert thread_count._quota(tmp_path / "cpu.max") == (expected or sys.maxsize)


def test_hardware_threads_of_a_core_are_counted_once(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings)
    assert thread_count._count_cores({0, 1, 2, 3}, tmp_path) == 2
    assert thread_count._count_cores({1, 2}, tmp_path) == 2
    assert thread_count._count_cores({0, 2, 7}, tmp_path) == 2


def test_there_is_at_least_one() -> None:
    assert 1 <= num_usable_cores() <= num_usable_cpus()
