"""One engine as a process: started, timed until it answers, its memory read, stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from perf.engines import Command

START_DEADLINE_S = 600.0
POLL_S = 0.02


@dataclass
class RunningServer:
    """`start_up_s` is from exec until the first 200 of `/v1/models`."""

    url: str
    start_up_s: float
    process: subprocess.Popen[bytes]

    def peak_bytes(self) -> int:
        """Sum of the peak resident sets of the process and its children."""
        parent = psutil.Process(self.process.pid)
        return sum(_peak_bytes(process.pid) for process in (parent, *parent.children(recursive=True)))


@contextlib.contextmanager
def running(command: Command, port: int, log: Path) -> Iterator[RunningServer]:
    """Raises `RuntimeError` that names the log if the server ends or is not ready in time."""
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **command.environment}
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, started, log)
            yield RunningServer(url, time.perf_counter() - started, process)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, started: float, log: Path) -> None:
    while time.perf_counter() < started + START_DEADLINE_S:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}, see {log}")
        try:
            with urllib.request.urlopen(url + "/v1/models", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    raise RuntimeError(f"the server was not ready after {START_DEADLINE_S:g} s, see {log}")


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
