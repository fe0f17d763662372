"""The README's examples answer as printed, against the served embedded model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PRINTED = re.search(r"Both answer “(.+?)”", README)


def example(language: str, containing: str, server: ServerProcess) -> str:
    """The README's code block in `language` that has `containing`, pointed at the test's server."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (code,) = (block for block in blocks if containing in block)
    assert "http://127.0.0.1:30000" in code
    return str(code).replace("http://127.0.0.1:30000", server.url)


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(("language", "containing"), [("bash", "curl"), ("python", "openai")])
def test_an_example_answers_as_printed(server: ServerProcess, language: str, containing: str) -> None:
    assert PRINTED, "the README says what its examples answer"
    code = example(language, containing, server)
    interpreter = ["bash", "-c"] if language == "bash" else [sys.executable, "-c"]
    assert PRINTED.group(1) in run([*interpreter, code])


def test_the_engine_answers_without_a_server() -> None:
    (code,) = re.findall(r"```python\n(from runtime\.engine.*?)```", README, re.DOTALL)
    assert "Paris" in run([sys.executable, "-c", code])
