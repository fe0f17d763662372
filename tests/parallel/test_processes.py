"""Rank processes: started, watched, and never left behind. The processes here are Python, but no ranks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from runtime.config import Config
from runtime.errors import RankLost
from runtime.parallel import processes
from runtime.parallel.processes import RankProcesses, started
from runtime.parallel.setup import RankSetup

SETUP = RankSetup(config=Config(), rank=1, num_ranks=2, host="localhost", port=1, secret=b"only the ranks know this")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of the module that is run in the place of a rank."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "MODULE", "played_rank")
    return tmp_path / "played_rank.py"


def pids() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "played_rank" in child.cmdline()}


def test_what_a_rank_is_comes_over_standard_input_and_nothing_else_shows_the_secret(module: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    module.write_text(
        "import os, sys\n"
        f"open({str(said)!r}, 'wb').write(sys.stdin.buffer.read())\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr(sys.argv) + repr(dict(os.environ)))\n"
    )

    async def run() -> None:
        async with started([SETUP]) as ranks:
            await asyncio.wait_for(ranks.watch(), 60)

    asyncio.run(run())
    assert msgspec.json.decode(said.read_bytes(), type=RankSetup) == SETUP
    seen = (tmp_path / "seen").read_text()
    assert "only the ranks" not in seen
    assert "b25seSB0aGUg" not in seen  # the same in base 64


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit(3)", "rank 1 has ended with exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was ended by SIGKILL"),
    ],
)
def test_a_process_that_ends_is_noticed_and_the_others_are_killed(module: Path, program: str, reason: str) -> None:
    module.write_text(
        "import json, sys, threading\nif json.load(sys.stdin)['rank'] == 2:\n    threading.Event().wait()\n" + program + "\n"
    )
    other = RankSetup(config=Config(), rank=2, num_ranks=3, host="localhost", port=1, secret=b"")

    async def run() -> None:
        async with started([SETUP, other]) as ranks:
            await asyncio.wait_for(ranks.watch(), 60)

    with pytest.raises(RankLost, match=reason):
        asyncio.run(run())
    assert pids() == set()


def test_a_process_that_does_not_end_in_time_is_killed(module: Path) -> None:
    module.write_text("import threading; threading.Event().wait()\n")

    async def run() -> None:
        ranks = RankProcesses()
        await ranks.start([SETUP])
        assert len(pids()) == 1
        await ranks.stop(0.0)
        assert pids() == set()
        await ranks.stop(0.0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "this process is for `python -m runtime.serve --tp-size` to start"),
        (msgspec.json.encode(SETUP), "the process that has started this rank is gone"),
        (
            msgspec.json.encode(msgspec.structs.replace(SETUP, parent=os.getppid())),
            "the process that has started this rank is gone",
        ),
    ],
    ids=["nothing", "nobody", "another process"],
)
def test_a_rank_without_its_parent_ends_at_once(said: bytes, reason: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "runtime.rank"], input=said, capture_output=True, timeout=60)
    assert ended.returncode == 1
    assert reason in ended.stderr.decode()
