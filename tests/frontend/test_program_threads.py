"""Threads for programs: a bounded number starts something, and one that waits makes room for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from frontend.program_threads import MAX_ACTIVE, ProgramThreads

DEADLINE_S = 30.0

setting: ContextVar[int] = ContextVar("setting", default=0)


@pytest.fixture
def threads() -> Iterator[ProgramThreads]:
    threads = ProgramThreads(2 * MAX_ACTIVE)
    yield threads
    threads.close()


def test_no_more_start_than_may_be_active(threads: ProgramThreads) -> None:
    started, go = threading.Semaphore(0), threading.Event()

    def body() -> None:
        started.release()
        go.wait(DEADLINE_S)

    futures = [threads.submit(body) for _ in range(2 * MAX_ACTIVE)]
    for _ in range(MAX_ACTIVE):
        assert started.acquire(timeout=DEADLINE_S)
    assert not started.acquire(blocking=False)
    go.set()
    for future in futures:
        future.result(DEADLINE_S)


def test_one_that_waits_makes_room(threads: ProgramThreads) -> None:
    all_wait, go = threading.Barrier(2 * MAX_ACTIVE), threading.Event()

    def body() -> None:
        with threads.waiting():
            all_wait.wait(DEADLINE_S)
        go.wait(DEADLINE_S)

    futures = [threads.submit(body) for _ in range(2 * MAX_ACTIVE)]
    go.set()
    for future in futures:
        future.result(DEADLINE_S)


def test_results_errors_and_context_come_through(threads: ProgramThreads) -> None:
    setting.set(7)
    assert threads.submit(setting.get).result(DEADLINE_S) == 7
    assert isinstance(threads.submit(lambda: 1 // 0).exception(DEADLINE_S), ZeroDivisionError)
