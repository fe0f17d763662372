"""Many runs of the whole server in virtual time, and proof that they would notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.planted import PLANTS
from tests.sim.simulation import Result, replay, simulate

NUM_SEEDS = 120
NUM_SEEDS_PER_TEST = 20
MOST_SEEDS_TO_FIND_A_BUG = 200
ROOT = Path(__file__).parents[2]

DIGESTS = """
from tests.sim.simulation import simulate
for seed in (3, 17, 42, 60, 99):
    result = simulate(seed)
    print(seed, result.num_deliveries, result.journal.digest())
"""


def failure(result: Result) -> str:
    return f"seed {result.seed}: {result.problem}"


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, NUM_SEEDS_PER_TEST))
def test_every_promise_holds(first: int) -> None:
    for seed in range(first, first + NUM_SEEDS_PER_TEST):
        result = simulate(seed)
        assert result.problem is None, failure(result)
        assert result.num_deliveries > 0


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    with PLANTS[name]():
        found = next((result for seed in range(MOST_SEEDS_TO_FIND_A_BUG) if (result := simulate(seed)).problem), None)
    assert found is not None, f"{name} was not found"
    healthy = simulate(found.seed)
    assert healthy.problem is None, failure(healthy)


def test_a_run_is_the_same_in_another_process_with_another_hash_seed() -> None:
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DIGESTS]
        outputs.add(subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert len(outputs) == 1
    digests = {line.split()[2] for line in outputs.pop().splitlines()}
    assert len(digests) == 5, "different seeds are different runs"


def test_a_failed_run_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with PLANTS["publish_what_is_not_computed"]():
        failed = next(result for seed in range(MOST_SEEDS_TO_FIND_A_BUG) if (result := simulate(seed)).problem)
        failed.journal.save(path)
        again, difference = replay(path)
    assert (again.problem, difference) == (failed.problem, None)
    repaired, difference = replay(path)
    assert repaired.problem is None
    assert difference is not None, "without the bug it is another run"
