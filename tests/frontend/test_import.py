"""`import frontend` is light: it is what every script begins with."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "asyncio", "msgspec", "numpy", "openai", "orjson", "runtime", "torch", "tqdm", "transformers")
MAX_NEW_MODULES = 60


def modules_after(statement: str) -> list[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_it_imports_little() -> None:
    modules = modules_after("import frontend")
    assert not set(HEAVY) & {module.partition(".")[0] for module in modules}
    assert len(modules) - len(modules_after("import dataclasses, json, pathlib, re, typing")) < MAX_NEW_MODULES


def test_writing_a_program_imports_no_more() -> None:
    program = "import frontend as sgl; sgl.function(lambda s: sgl.user('x') + sgl.gen('y', regex='[0-9]'))"
    assert not set(HEAVY) & {module.partition(".")[0] for module in modules_after(program)}


def test_names_are_found_when_they_are_used() -> None:
    import frontend

    assert frontend.RuntimeEndpoint.__name__ == "RuntimeEndpoint"
    assert frontend.ProgramState.__name__ == "ProgramState"
    with pytest.raises(AttributeError, match="no attribute 'NoSuchBackend'"):
        frontend.NoSuchBackend  # noqa: B018
