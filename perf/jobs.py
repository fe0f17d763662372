"""Programs that are run one after the other, each in a process group of its own with a time limit.

One that hangs, crashes or loses the device costs only its own figures, and leaves no process behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parent.parent
LEAST_S = 5.0
"""A job that could only run for less is not begun."""


@dataclass(frozen=True, slots=True)
class Job:
    """`python -m module arguments`, which adds its figures to the file that `--output-file` names."""

    name: str
    module: str
    arguments: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """`rows` are the figures that there are, also of a job that failed later; `problem` is empty if it ended well."""

    name: str
    command: str
    seconds: float
    rows: list[dict[str, Any]]
    problem: str
    last_lines: list[str]


def run_job(job: Job, folder: Path, deadline: float, see: Callable[[str], object]) -> Outcome:
    """Run `job` until it ends, its limit, or `deadline` on the monotonic clock. `see` is shown each line that it prints."""
    figures = folder / f"{job.name}.jsonl"
    command = [sys.executable, "-m", job.module, *job.arguments, "--output-file", str(figures)]
    shown = " ".join(["python", "-m", job.module, *job.arguments])
    left_s = deadline - time.monotonic()
    if left_s < LEAST_S:
        return Outcome(job.name, shown, 0.0, [], "not begun: no time was left", [])
    limit_s = min(job.limit_s, left_s)
    started = time.monotonic()
    code, lines = _run(command, limit_s, see)
    seconds = time.monotonic() - started
    rows = [orjson.loads(line) for line in figures.read_bytes().splitlines()] if figures.exists() else []
    return Outcome(job.name, shown, seconds, rows, _problem(code, lines, seconds, limit_s), lines[-30:])


def _run(command: list[str], limit_s: float, see: Callable[[str], object]) -> tuple[int, list[str]]:
    """The exit code and all lines. At the limit the whole process group ends, servers that the job started too."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        timer = threading.Timer(limit_s, _kill_group, (process.pid,))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                see(lines[-1])
            process.wait()
        finally:
            timer.cancel()
            _kill_group(process.pid)
    return process.returncode, lines


def _kill_group(leader: int) -> None:
    """What is left of the group; the leader itself may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _problem(code: int, lines: list[str], seconds: float, limit_s: float) -> str:
    if code == 0:
        return ""
    if code < 0 and seconds >= limit_s:
        return f"cut after {limit_s:.0f} s"
    reason = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{end}: {reason}"[:400]
