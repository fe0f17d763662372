"""What several tests of perf need."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest


@pytest.fixture
def wait_until_gone() -> Callable[[int], None]:
    """Returns once there is no such process, or one that only waits to be noticed; fails after ten seconds."""

    def wait(pid: int) -> None:
        deadline = time.monotonic() + 10
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} goes on"

    return wait
