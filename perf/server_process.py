"""One engine as a process: started, timed until it answers, its memory read, stopped."""

from __future__ import annotations

import contextlib
import os
import socket
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
STOP_DEADLINE_S = 60.0
POLL_S = 0.02


@dataclass
class RunningServer:
    """`start_up_s` is from exec until the first 200 of `/v1/models`."""

    url: str
    start_up_s: float
    process: subprocess.Popen[bytes]

    def peak_bytes(self) -> int:
        """Sum of the peak resident sets of the process and its children. Raises `RuntimeError` if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server has ended with exit code {self.process.returncode}")
        return sum(_peak_bytes(pid) for pid in (self.process.pid, *(child.pid for child in _children(self.process.pid))))


@contextlib.contextmanager
def running(command: Command, port: int, log: Path) -> Iterator[RunningServer]:
    """Raises `RuntimeError` with the end of the log if the server ends or is not ready in time, or if the port is taken."""
    if _is_taken(port):
        raise RuntimeError(f"another program listens on port {port}: end it, or give another --port")
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
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The server, and those of its children that it leaves behind."""
    children = _children(process.pid)
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _children(pid: int) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return children


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, started: float, log: Path) -> None:
    while time.perf_counter() < started + START_DEADLINE_S:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}: {_last_line(log)} (all of it in {log})")
        try:
            with urllib.request.urlopen(url + "/v1/models", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    raise RuntimeError(f"the server was not ready after {START_DEADLINE_S:g} s: {_last_line(log)} (all of it in {log})")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
