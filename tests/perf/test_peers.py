"""Engines side by side: one that can not be measured is a round with its reason, and keeps what it had."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from perf import peers
from perf.engines import Command
from perf.server_load import free_port
from perf.server_process import running

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


def engine(*arguments: str) -> Any:
    return SimpleNamespace(NAME="fake", command=lambda _: Command(list(arguments)), dummy_command=lambda *_: None)


def one_round(module: Any, tmp_path: Path) -> peers.Round:
    options = argparse.Namespace(gguf=tmp_path / "m.gguf", port=free_port(), num_threads=1, streams=[1])
    return peers._round(module, tmp_path, options)


def test_an_engine_that_ends_at_once_says_why(tmp_path: Path) -> None:
    found = one_round(engine(sys.executable, "-c", "print('no such model'); raise SystemExit(3)"), tmp_path)
    assert found.figures == {}
    assert found.problem.startswith("the server ended with exit code 3: no such model")


def test_an_environment_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = one_round(engine(str(tmp_path / "bin" / "python")), tmp_path)
    assert str(tmp_path / "bin" / "python") in found.problem


def test_an_engine_that_refuses_the_load_keeps_its_start(tmp_path: Path) -> None:
    """It answers a 501 to a POST."""
    port = free_port()
    options = argparse.Namespace(gguf=tmp_path / "m.gguf", port=port, num_threads=1, streams=[1])
    found = peers._round(engine(sys.executable, "-c", SERVER, str(port)), tmp_path, options)
    assert list(found.figures) == ["start to ready, s"]
    assert found.problem.startswith("a request failed, so this run measures nothing: 501")


def test_no_child_of_a_server_stays(tmp_path: Path, wait_until_gone: Callable[[int], None]) -> None:
    port, log = free_port(), tmp_path / "log"
    with running(Command([sys.executable, "-c", SERVER, str(port)]), port, log) as server:
        child = int(log.read_text().split()[0])
        assert child in [found.pid for found in psutil.Process(server.process.pid).children()]
        assert server.peak_bytes() > 0
    wait_until_gone(child)


def test_a_port_that_is_taken_is_not_measured(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port}"), running(Command(["true"]), port, tmp_path / "log"):
            pass


def test_all_rounds_are_written_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = engine(), engine()
    good.NAME, bad.NAME = "good", "bad"
    monkeypatch.setattr(peers, "_engine", lambda name: ({"good": good, "bad": bad}[name], tmp_path))
    monkeypatch.setattr(
        peers,
        "_round",
        lambda module, *_: peers.Round({"tok/s, 1 streams": 2.0}) if module is good else peers.Round({}, "boom"),
    )
    output = tmp_path / "peers.json"
    arguments = ["peers", "--engine", "good", "--engine", "bad", "--gguf", "m.gguf", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--output-file", str(output)])
    peers.main()
    assert peers.peer_rounds.read(output).engines["good"] == [peers.Round({"tok/s, 1 streams": 2.0})] * 2
    shown = capsys.readouterr().out
    assert "| tok/s, 1 stream | 2 (2–2) | – | – |" in shown
    assert "| bad | 2 | boom |" in shown
