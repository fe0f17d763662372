"""A real server in its own process, on a free port, with its log at hand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

READY = "The server is fired up and ready to roll!"
START_DEADLINE_S = 180.0
POLL_S = 0.05


class ServerProcess:
    """`python -m runtime.serve` with `arguments`; use `running` to have it stopped again."""

    def __init__(self, arguments: list[str], log_path: Path, environment: dict[str, str] | None = None) -> None:
        self.log_path = log_path
        self._log = log_path.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runtime.serve", "--port", "0", *arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        self.url = ""

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> None:
        """Poll the log, as a person would; raises `RuntimeError` with it if the process ends or the deadline comes."""
        for _ in range(int(START_DEADLINE_S / POLL_S)):
            if READY in self.log:
                self.url = re.findall(r"http://[\d.]+:\d+", self.log)[0]
                return
            try:
                self.process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"the server ended with exit code {self.process.returncode}:\n{self.log}")
        raise RuntimeError(f"not ready after {START_DEADLINE_S} s:\n{self.log}")

    def stop(self, sign: signal.Signals = signal.SIGTERM, deadline_s: float = 60.0) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(deadline_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._log.close()


@contextlib.contextmanager
def running(arguments: list[str], log_path: Path) -> Iterator[ServerProcess]:
    """A server that is ready; stopped at the end, and its exit code must be 0."""
    server = ServerProcess(arguments, log_path)
    try:
        server.wait_until_ready()
        yield server
    finally:
        code = server.stop()
    assert code == 0, server.log
