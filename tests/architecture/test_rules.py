"""Rules that a linter has no name for, checked on the syntax trees of the whole project."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("runtime", "kernels", "frontend") for path in (ROOT / folder).rglob("*.py"))

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load"}
NONDETERMINISTIC_CALLS = {"time.time", "time.monotonic", "time.perf_counter", "uuid.uuid4", "os.urandom", "random.random"}
CONTROL_PLANE = ("http", "text", "batches", "scheduling", "caching", "metrics", "actors")
PURE_FILES = (
    "scheduling/state.py",
    "caching/pool.py",
    "caching/radix.py",
    "caching/lease.py",
)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def called(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_can_run_code_from_data(path: Path) -> None:
    assert not FORBIDDEN_MODULES & {module.partition(".")[0] for module in imported(path)}
    assert not FORBIDDEN_CALLS & set(called(path))


@pytest.mark.parametrize("path", [path for path in SOURCES if path.relative_to(ROOT).parts[1] in CONTROL_PLANE], ids=name)
def test_actors_take_time_and_chance_from_outside(path: Path) -> None:
    assert not NONDETERMINISTIC_CALLS & set(called(path))


@pytest.mark.parametrize("file", PURE_FILES)
def test_state_machines_are_pure(file: str) -> None:
    forbidden = {"torch", "asyncio", "time", "random", "threading"}
    assert not forbidden & {module.partition(".")[0] for module in imported(ROOT / "runtime" / file)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module needs a docstring: what it owns and the invariant it keeps"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_actors_catch_everything(path: Path) -> None:
    if path.relative_to(ROOT).parts[:2] == ("runtime", "actors"):
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"everything", "Exception", "BaseException"}, f"line {node.lineno}"
