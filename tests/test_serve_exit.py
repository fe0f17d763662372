"""How the server's process ends when its engine is lost for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import threading
from runtime import errors, serve

async def lose(config):
    raise errors.{error}("it is gone")

serve._run = lose
threading.Thread(target=threading.Event().wait, daemon={is_daemon}).start()
serve.main([])
"""


@pytest.mark.parametrize(
    ("error", "code", "is_daemon"), [("EngineError", 5, True), ("DeviceLost", 7, True), ("DeviceLost", 7, False)]
)
def test_the_exit_code_says_what_was_lost(error: str, code: int, is_daemon: bool) -> None:
    """After a lost device nothing is waited for: what is still to be done with it may never end."""
    program = PROGRAM.format(error=error, is_daemon=is_daemon)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.splitlines() == ["error: it is gone"]
