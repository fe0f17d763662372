"""Measure a running server: `python -m perf.serve_bench --base-url http://127.0.0.1:30000 --max-concurrency 1 8 32`.

Prints one line per concurrency and, with `--output-file`, appends one JSON line each. Requests that fail are counted and
named: a run with errors measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import orjson
from tqdm import tqdm

from perf import workloads
from perf.load import Client, Sample, closed_loop, poisson
from perf.summary import Summary, summarize
from perf.workloads import Call

COLUMNS = "{:>11} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>9} {:>9} {:>7}"
HEADINGS = ("streams", "tok/s", "req/s", "TTFT p50", "TTFT p99", "TPOT p50", "ITL p50", "ITL p99", "seconds", "errors")


def main() -> None:
    options = _parser().parse_args()
    print(COLUMNS.format(*HEADINGS))
    for concurrency in options.max_concurrency:
        summary = asyncio.run(_measure(options, concurrency))
        _report(summary, concurrency)
        if options.output_file:
            _append(options.output_file, {"concurrency": concurrency, **vars(options), **asdict(summary)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.serve_bench", description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--dataset-name", choices=("random", "generated-shared-prefix"), default="random")
    parser.add_argument("--num-prompts", type=int, help="requests per run; by default 4 for each stream, at least 12")
    parser.add_argument("--max-concurrency", type=int, nargs="+", default=[1, 8, 32], help="closed loop with so many streams")
    parser.add_argument("--request-rate", type=float, help="open loop instead: Poisson arrivals per second")
    parser.add_argument("--random-input-len", type=int, default=100)
    parser.add_argument("--random-output-len", type=int, default=64)
    parser.add_argument("--gsp-num-groups", type=int, default=1)
    parser.add_argument("--gsp-system-prompt-len", type=int, default=800)
    parser.add_argument("--gsp-question-len", type=int, default=40)
    parser.add_argument("--gsp-output-len", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=49000, help="prompt token ids are below this")
    parser.add_argument("--seed", type=int, help="by default a new one, since a prompt seen before is answered from a cache")
    parser.add_argument("--output-file", type=Path)
    return parser


async def _measure(options: argparse.Namespace, concurrency: int) -> Summary:
    seed = options.seed if options.seed is not None else time.time_ns() % 2**32
    num_calls = options.num_prompts or max(12, 4 * concurrency)
    calls = _calls(options, num_calls + 2, seed)
    async with Client(options.base_url, options.model) as client:
        warm_up = [await client.send(call) for call in calls[:2]]
        if error := next((sample.error for sample in warm_up if sample.error), None):
            raise SystemExit(f"the server refused the warm-up request: {error}")
        if options.request_rate:
            running = poisson(client, calls[2:], options.request_rate, seed)
        else:
            running = closed_loop(client, calls[2:], concurrency)
        return summarize(await _collect(running, num_calls))


def _calls(options: argparse.Namespace, num_calls: int, seed: int) -> list[Call]:
    if options.dataset_name == "random":
        return workloads.fixed(
            num_calls,
            prompt_tokens=options.random_input_len,
            output_tokens=options.random_output_len,
            vocab_size=options.vocab_size,
            seed=seed,
        )
    return workloads.shared_prefix(
        num_calls,
        num_groups=options.gsp_num_groups,
        prefix_tokens=options.gsp_system_prompt_len,
        question_tokens=options.gsp_question_len,
        output_tokens=options.gsp_output_len,
        vocab_size=options.vocab_size,
        seed=seed,
    )


async def _collect(running: AsyncIterator[Sample], total: int) -> list[Sample]:
    samples = []
    with tqdm(total=total, leave=False, unit="req", disable=None) as progress:
        async for sample in running:
            samples.append(sample)
            progress.update()
            if sample.error:
                progress.write(f"error: {sample.error}")
    return samples


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
