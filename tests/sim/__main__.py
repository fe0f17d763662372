"""`python -m tests.sim --seeds 1000`: simulate many runs, and stop at the first one that breaks a promise.

That run's journal is saved; `--replay FILE` runs it again and says whether it is the same run. Exits 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from tests.sim.simulation import Result, replay, simulate

JOURNALS = Path("build") / "sim"


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.replay is not None:
        return _replay(arguments.replay)
    return _simulate(range(arguments.start, arguments.start + arguments.seeds), arguments.journals)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many runs")
    parser.add_argument("--start", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--journals", type=Path, default=JOURNALS, metavar="FOLDER", help="where the journal of a failure goes")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a saved journal again")
    return parser


def _simulate(seeds: range, folder: Path) -> int:
    begun = time.perf_counter()
    num_deliveries, virtual_s = 0, 0.0
    for seed in tqdm(seeds, unit="seed", smoothing=0.1, disable=None):
        result = simulate(seed)
        num_deliveries += result.num_deliveries
        virtual_s += result.virtual_s
        if result.problem is not None:
            _report_failure(result, folder)
            return 1
    seconds = time.perf_counter() - begun
    _say(
        f"{len(seeds)} seeds passed in {seconds:.1f} s: {len(seeds) / seconds:.1f} seeds/s, "
        f"{num_deliveries:,} deliveries, {virtual_s:,.0f} virtual seconds"
    )
    return 0


def _report_failure(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed-{result.seed}.jsonl"
    result.journal.save(path)
    _say(f"seed {result.seed} failed after {result.num_deliveries} deliveries and {result.virtual_s:.3f} virtual seconds")
    _say(f"  {result.problem}")
    _say(f"journal: {path}   run it again: python -m tests.sim --replay {path}")


def _replay(path: Path) -> int:
    try:
        result, difference = replay(path)
    except (OSError, ValueError) as error:
        _say(f"{path} can not be replayed: {error}")
        return 2
    _say(f"seed {result.seed}, log hash {result.journal.digest()}")
    _say("the same run as recorded" if difference is None else f"not the run that was recorded: {difference}")
    _say(result.problem or "every promise held")
    return 0 if result.problem is None else 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
