"""Programs that end well, fail, crash, hang and leave children: each costs only itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perf.jobs import Job, Outcome, run_job


def run(folder: Path, deed: str, limit_s: float = 30.0, left_s: float = 30.0) -> Outcome:
    return run_job(Job("any", "tests.perf.fake_program", (deed,), limit_s), folder, time.monotonic() + left_s, bool)


def test_a_program_gives_its_figures(tmp_path: Path) -> None:
    outcome = run(tmp_path, "work")
    assert (outcome.problem, outcome.rows, outcome.last_lines) == ("", [{"figure": 1}], ["now: work"])
    assert outcome.command == "python -m tests.perf.fake_program work"


@pytest.mark.parametrize(
    ("deed", "problem"),
    [("fail", "exit code 1: no luck"), ("crash", "ended by SIGABRT: now: crash"), ("hang", "cut after 2 s")],
)
def test_a_program_that_fails_says_why_and_keeps_its_figures(tmp_path: Path, deed: str, problem: str) -> None:
    outcome = run(tmp_path, deed, limit_s=2.0 if deed == "hang" else 30.0)
    assert outcome.problem == problem
    assert outcome.rows == [{"figure": 1}]


@pytest.mark.parametrize("deed", ["hang", "leave", "detach"])
def test_no_child_stays(tmp_path: Path, deed: str, wait_until_gone: Callable[[int], None]) -> None:
    outcome = run(tmp_path, deed, limit_s=2.0)
    wait_until_gone(int(outcome.last_lines[-1]))


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    outcome = run(tmp_path, "work", left_s=1.0)
    assert outcome.problem == "not begun: no time was left"
    assert outcome.seconds == 0.0


def test_every_line_is_seen_as_it_comes(tmp_path: Path) -> None:
    seen: list[str] = []
    run_job(Job("any", "tests.perf.fake_program", ("work",), 30.0), tmp_path, time.monotonic() + 30, seen.append)
    assert seen == ["now: work"]
