"""Measure languages on a running server: `python -m perf.language_bench --base-url http://127.0.0.1:30000`.

Each client asks the same number of questions behind a prefix of worked examples that all of its questions share, and gets as
many tokens for each. The prefix is a new one every time, so that none is known to the server. Rounds are interleaved. A
client whose package is not installed is left out; each of perf/language_clients is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

import msgspec
import numpy as np
from tqdm import tqdm

from perf.language_client import CLIENTS, Outcome
from perf.language_clients import Job
from perf.provenance import ROOT
from runtime import extensions

ROW = "{:<12} {:>9} {:>9} {:>9} {:>12} {:>9}"
HEADINGS = ("client", "tok/s", "req/s", "seconds", "client CPU s", "peak MB")


def main() -> None:
    options = _parser().parse_args()
    outcomes = measure(options)
    print(ROW.format(*HEADINGS))
    for name, found in outcomes.items():
        seconds = statistics.median(outcome.seconds for outcome in found)
        cpu_s = statistics.median(outcome.cpu_s for outcome in found)
        rate = options.num_questions / seconds
        peak_mb = max(outcome.peak_mb for outcome in found)
        figures = (f"{rate * options.num_tokens:.0f}", f"{rate:.1f}", f"{seconds:.2f}", f"{cpu_s:.2f}", f"{peak_mb:.0f}")
        print(ROW.format(name, *figures))


def measure(options: argparse.Namespace) -> dict[str, list[Outcome]]:
    """Of each client, by its name. Raises `SystemExit` with what a client said if it fails."""
    names = [name for name in options.clients if _is_there(name)]
    rng = np.random.default_rng(options.seed if options.seed is not None else time.time_ns() % 2**32)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with tqdm(total=options.rounds * len(names), leave=False, unit="run", disable=None) as progress:
        for _ in range(options.rounds):
            for name in rng.permutation(names):
                progress.set_description(name)
                outcomes[name].append(_run(name, job_of(options, rng)))
                progress.update()
    return outcomes


def job_of(options: argparse.Namespace, rng: np.random.Generator) -> Job:
    """With a new prefix. Its numbers all have three digits, so that prefixes are equally long."""
    prefix = "".join(f"Question: what is {a} plus {b}? Answer: {a + b}. " for a, b in _pairs(rng, options.num_shots))
    questions = [f"Question: what is {a} plus {b}? Answer:" for a, b in _pairs(rng, options.num_questions)]
    return Job(options.base_url, prefix, questions, options.num_tokens)


def _pairs(rng: np.random.Generator, count: int) -> Iterable[tuple[int, int]]:
    return ((int(a), int(b)) for a, b in rng.integers(100, 500, size=(count, 2)))


def _run(name: str, job: Job) -> Outcome:
    command = [sys.executable, "-m", "perf.language_client", name]
    done = subprocess.run(command, input=msgspec.json.encode(job), capture_output=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise SystemExit(f"the client {name} failed: {said[-1]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)


def _is_there(name: str) -> bool:
    if importlib.util.find_spec(extensions.load(CLIENTS, name).PACKAGE) is not None:
        return True
    print(f"{name} is left out: its package is not installed")
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.language_bench", description=__doc__)
    names = extensions.names(CLIENTS)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    parser.add_argument("--clients", nargs="+", choices=names, default=list(names))
    parser.add_argument("--num-questions", type=int, default=512)
    parser.add_argument("--num-shots", type=int, default=40, help="worked examples in the prefix, about 20 tokens each")
    parser.add_argument("--num-tokens", type=int, default=8, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="the median is shown, but the highest peak")
    parser.add_argument("--seed", type=int, help="by default a new one, since a prefix seen before is answered from a cache")
    return parser


if __name__ == "__main__":
    main()
