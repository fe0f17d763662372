"""Measure engines side by side: `python -m perf.peers --engine callboard=VENV --engine llama-cpp=VENV --gguf MODEL.gguf`.

Every round starts each engine afresh and gives it the same loads with new prompts, so that slow drift of the machine falls on
all alike. Prints a Markdown table of medians with their range, and the ratios to the first engine named.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import ModuleType

import orjson
from tqdm import tqdm

from perf.call import Session
from perf.engines import EngineOptions
from perf.load import Client, Sample, closed_loop
from perf.server_process import running
from perf.summary import summarize
from perf.tiny_model import write_tiny_model
from perf.workloads.generated_shared_prefix import shared_prefix
from perf.workloads.random import fresh
from runtime import extensions

VOCAB_SIZE = 49000
STREAMS = (1, 8, 32)
CONTROL_PLANE_STREAMS = (1, 16, 128)
Figures = dict[str, float]
Rounds = dict[str, list[Figures]]
"""By engine, the reference first."""


def main() -> None:
    options = _parser().parse_args()
    engines = [_engine(text) for text in options.engine]
    rounds: Rounds = {module.NAME: [] for module, _ in engines}
    with tqdm(total=options.rounds * len(engines), unit="server", disable=None) as progress:
        for number in range(options.rounds):
            for module, venv in engines:
                progress.set_description(f"round {number + 1}, {module.NAME}")
                rounds[module.NAME].append(_measure(module, venv, options))
                progress.update()
                if options.output_file:
                    options.output_file.write_bytes(orjson.dumps(rounds, option=orjson.OPT_INDENT_2))
    print(ratio_table(rounds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.peers", description=__doc__)
    parser.add_argument("--engine", action="append", required=True, metavar="NAME=VENV", help="repeat for each engine")
    parser.add_argument(
        "--gguf", type=Path, required=True, help="the model, a GGUF file; beside it the same as a Hugging Face folder"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=31000)
    parser.add_argument("--num-threads", type=int, default=os.cpu_count())
    parser.add_argument("--output-file", type=Path, help="JSON with every round")
    return parser


def _engine(text: str) -> tuple[ModuleType, Path]:
    name, _, venv = text.partition("=")
    return extensions.load("perf.engines", name), Path(venv)


def _measure(module: ModuleType, venv: Path, options: argparse.Namespace) -> Figures:
    """One fresh server through all loads."""
    engine = EngineOptions(venv, options.gguf, options.port, options.num_threads, max(STREAMS))
    command = module.command(engine)
    log = Path(tempfile.gettempdir()) / f"callboard-perf-{module.NAME}.log"
    with running(command, options.port, log) as server:
        figures: Figures = {"start to ready, s": server.start_up_s}
        figures |= asyncio.run(_loads(server.url, command.model))
        figures["peak memory, MB"] = server.peak_bytes() / 1e6
    return figures | _measure_control_plane(module, engine, log)


def _measure_control_plane(module: ModuleType, engine: EngineOptions, log: Path) -> Figures:
    """Of a server whose model costs next to nothing; no figures for an engine that can not run one."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_model(engine.gguf.with_suffix(""), Path(folder))
        command = module.dummy_command(engine, Path(folder))
        if command is None:
            return {}
        with running(command, engine.port, log) as server:
            return asyncio.run(_control_plane_loads(server.url, command.model))


async def _loads(url: str, model: str) -> Figures:
    seed = time.time_ns() % 2**32
    figures: Figures = {}
    async with Client(url, model) as client:
        await _run(client, _fresh(2, seed), 1)  # warm-up
        for streams in STREAMS:
            summary = summarize(await _run(client, _fresh(max(8, 3 * streams), seed + streams), streams))
            figures[f"tok/s, {streams} streams"] = summary.output_tokens_per_s
            figures[f"TTFT p50 ms, {streams} streams"] = summary.ttft_p50_ms
        shared = shared_prefix(
            48, num_groups=1, prefix_tokens=800, question_tokens=40, output_tokens=16, vocab_size=VOCAB_SIZE, seed=seed + 99
        )
        figures["shared prefix, req/s"] = summarize(await _run(client, shared, 16)).requests_per_s
    return figures


async def _control_plane_loads(url: str, model: str) -> Figures:
    figures: Figures = {}
    async with Client(url, model) as client:
        for streams in (1, *CONTROL_PLANE_STREAMS):  # the first one warms up
            sessions = fresh(
                max(8, 3 * streams),
                prompt_tokens=20,
                output_tokens=128,
                vocab_size=VOCAB_SIZE,
                seed=time.time_ns() % 2**32,
            )
            summary = summarize(await _run(client, sessions, streams))
            figures[f"control plane tok/s, {streams} streams"] = summary.output_tokens_per_s
    return figures


def _fresh(num_sessions: int, seed: int) -> list[Session]:
    return fresh(num_sessions, prompt_tokens=100, output_tokens=64, vocab_size=VOCAB_SIZE, seed=seed)


async def _run(client: Client, sessions: list[Session], concurrency: int) -> list[Sample]:
    samples = await closed_loop(client, sessions, concurrency)
    if error := next((sample.error for sample in samples if sample.error), None):
        raise RuntimeError(f"a request failed, so this run measures nothing: {error}")
    return samples


def ratio_table(rounds: Rounds) -> str:
    names = list(rounds)
    reference = names[0]
    lines = [
        "| | " + " | ".join([*names, *(f"{reference} / {name}" for name in names[1:])]) + " |",
        "|---" * (2 * len(names)) + "|",
    ]
    for figure in rounds[reference][0]:
        values = {name: [run[figure] for run in rounds[name] if figure in run] for name in names}
        cells = [_cell(values[name]) for name in names]
        cells += [_ratio(values[reference], values[name]) for name in names[1:]]
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.3g}×" if theirs else "–"


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.4g} ({min(values):.4g}–{max(values):.4g})"


if __name__ == "__main__":
    main()
