"""A server of one rank knows nothing of ranks."""

from __future__ import annotations

import subprocess
import sys


def test_one_rank_imports_nothing_about_ranks() -> None:
    program = (
        "import sys, runtime.serve, runtime.engine;"
        "print([name for name in sys.modules if 'parallel' in name or 'torch' in name])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert ended.stdout.decode().strip() == "[]"
