"""The README's tour of the language runs as it is printed, against the served embedded model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import running

README = Path(__file__).parents[2] / "README.md"
SECTION = re.compile(r"^## The language in five minutes\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:30000"


def snippets(readme: str) -> list[str]:
    """The section's Python code, block by block. They build on each other."""
    section = SECTION.search(readme)
    return re.findall(r"```python\n(.*?)```", section.group(1), re.DOTALL) if section else []


def test_the_tour_runs(embedded_gguf: Path, tmp_path: Path) -> None:
    blocks = snippets(README.read_text(encoding="utf-8"))
    if not blocks:
        pytest.skip("the README has no section 'The language in five minutes'")
    assert ADDRESS in blocks[0]
    with running(["--max-total-tokens", "8192"], tmp_path / "log") as server:
        program = "\n".join(blocks).replace(ADDRESS, server.url)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
