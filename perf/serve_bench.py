"""Measure a running server: `python -m perf.serve_bench --base-url http://127.0.0.1:30000 --max-concurrency 1 8 32`.

`--dataset-name` chooses the load: each file of perf/workloads is one. Prints one line per concurrency and, with
`--output-file`, adds one JSON line each. Requests that fail are counted and named: a run with errors measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from perf import provenance
from perf.load import Client, Sample, closed_loop, poisson
from perf.summary import Summary, summarize
from runtime import extensions

WORKLOADS = "perf.workloads"

COLUMNS = "{:>11} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>9} {:>9} {:>7}"
HEADINGS = ("streams", "tok/s", "req/s", "TTFT p50", "TTFT p99", "TPOT p50", "ITL p50", "ITL p99", "seconds", "errors")


def main() -> None:
    options = _parser().parse_args()
    print(COLUMNS.format(*HEADINGS))
    for concurrency in options.max_concurrency:
        summary = asyncio.run(_measure(options, concurrency))
        _report(summary, concurrency)
        if options.output_file:
            measured = str(provenance.of_machine())
            _append(options.output_file, {"concurrency": concurrency, **vars(options), **asdict(summary), "measured": measured})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.serve_bench", description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--dataset-name", choices=extensions.names(WORKLOADS), default="random")
    parser.add_argument("--num-prompts", type=int, help="requests per run; by default 4 for each stream, at least 12")
    parser.add_argument("--max-concurrency", type=int, nargs="+", default=[1, 8, 32], help="closed loop with so many streams")
    parser.add_argument("--request-rate", type=float, help="open loop instead: Poisson arrivals per second")
    parser.add_argument("--vocab-size", type=int, default=49000, help="prompt token ids are below this")
    parser.add_argument("--seed", type=int, help="by default a new one, since a prompt seen before is answered from a cache")
    parser.add_argument("--output-file", type=Path, help="one JSON line for each row is added to it")
    for name in extensions.names(WORKLOADS):
        extensions.load(WORKLOADS, name).add_arguments(parser.add_argument_group(name))
    return parser


async def _measure(options: argparse.Namespace, concurrency: int) -> Summary:
    seed = options.seed if options.seed is not None else time.time_ns() % 2**32
    num_sessions = options.num_prompts or max(12, 4 * concurrency)
    workload = extensions.load(WORKLOADS, options.dataset_name)
    first, second, *sessions = workload.sessions(options, num_sessions + 2, seed)
    async with Client(options.base_url, options.model) as client:
        warm_up = await closed_loop(client, [first, second], 1)
        if error := next((sample.error for sample in warm_up if sample.error), None):
            raise SystemExit(f"the server refused the warm-up request: {error}")
        with tqdm(total=sum(map(len, sessions)), leave=False, unit="req", disable=None) as progress:
            see = partial(_show, progress)
            if options.request_rate:
                samples = await poisson(client, sessions, options.request_rate, seed, see)
            else:
                samples = await closed_loop(client, sessions, concurrency, see)
    return summarize(samples)


def _show(progress: tqdm[Any], sample: Sample) -> None:
    progress.update()
    if sample.error:
        progress.write(f"error: {sample.error}")


def _report(summary: Summary, concurrency: int) -> None:
    figures = (
        summary.output_tokens_per_s,
        summary.requests_per_s,
        summary.ttft_p50_ms,
        summary.ttft_p99_ms,
        summary.tpot_p50_ms,
        summary.itl_p50_ms,
        summary.itl_p99_ms,
        summary.duration_s,
    )
    print(COLUMNS.format(concurrency, *(f"{figure:.2f}" for figure in figures), summary.num_errors))


def _append(path: Path, row: dict[str, object]) -> None:
    with path.open("ab") as file:
        file.write(orjson.dumps(row, default=str) + b"\n")


if __name__ == "__main__":
    main()
