"""Measure engines side by side: `python -m perf.peers --engine callboard=VENV --engine llama-cpp=VENV --gguf MODEL.gguf`.

Every round starts each engine afresh and gives it the same loads with new prompts, so that slow drift of the machine falls on
all alike. Prints a Markdown table of medians with their range, and the ratios to the first engine named. An engine that does
not start, ends or answers with errors costs its own round only, and the reason is in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from types import ModuleType

import msgspec
from tqdm import tqdm

from perf import peer_rounds, provenance
from perf.call import Session
from perf.engines import Command, EngineOptions
from perf.load import Client, Sample, closed_loop
from perf.peer_rounds import Figures, PeerRounds, Round
from perf.server_process import running
from perf.summary import summarize
from perf.tiny_model import write_tiny_model
from perf.workloads.generated_shared_prefix import shared_prefix
from perf.workloads.random import fresh
from runtime import extensions

VOCAB_SIZE = 49000
CONTROL_PLANE_STREAMS = (1, 16, 128)
MAX_PROBLEM = 300
ROUND_ERRORS = (RuntimeError, OSError, ValueError)
"""A server that does not start, ends or answers nothing, and an environment that is not there."""


def main() -> None:
    options = _parser().parse_args()
    engines = [_engine(text) for text in options.engine]
    rounds = PeerRounds(provenance.of_machine(), {module.NAME: [] for module, _ in engines})
    with tqdm(total=options.rounds * len(engines), unit="server", disable=None) as progress:
        for number in range(options.rounds):
            for module, venv in engines:
                progress.set_description(f"round {number + 1}, {module.NAME}")
                found = _round(module, venv, options)
                if found.problem:
                    progress.write(f"{module.NAME}, round {number + 1}: {found.problem}")
                rounds.engines[module.NAME].append(found)
                progress.update()
                if options.output_file:
                    options.output_file.write_bytes(msgspec.json.format(msgspec.json.encode(rounds)))
    print(peer_rounds.markdown(rounds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.peers", description=__doc__)
    parser.add_argument("--engine", action="append", required=True, metavar="NAME=VENV", help="repeat for each engine")
    parser.add_argument(
        "--gguf", type=Path, required=True, help="the model, a GGUF file; beside it the same as a Hugging Face folder"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--port", type=int, default=31000)
    parser.add_argument("--num-threads", type=int, default=os.cpu_count())
    parser.add_argument("--output-file", type=Path, help="JSON with every round, for perf.report")
    return parser


def _engine(text: str) -> tuple[ModuleType, Path]:
    name, _, venv = text.partition("=")
    return extensions.load("perf.engines", name), Path(venv)


def _round(module: ModuleType, venv: Path, options: argparse.Namespace) -> Round:
    """One fresh server through all loads, and one of a model that costs next to nothing, if the engine can make one up."""
    engine = EngineOptions(venv, options.gguf, options.port, options.num_threads, max(options.streams))
    log = Path(tempfile.gettempdir()) / f"callboard-perf-{module.NAME}.log"
    figures: Figures = {}
    try:
        _measure(module.command(engine), options, log, figures)
        with tempfile.TemporaryDirectory() as folder:
            if (command := _dummy_command(module, engine, Path(folder))) is not None:
                with running(command, options.port, log) as server:
                    asyncio.run(_control_plane_loads(server.url, command.model, figures))
    except ROUND_ERRORS as error:
        return Round(figures, " ".join(str(error).split())[:MAX_PROBLEM] or type(error).__name__)
    return Round(figures)


def _measure(command: Command, options: argparse.Namespace, log: Path, figures: Figures) -> None:
    with running(command, options.port, log) as server:
        figures["start to ready, s"] = server.start_up_s
        asyncio.run(_loads(server.url, command.model, options.streams, figures))
        figures["peak memory, MB"] = server.peak_bytes() / 1e6


def _dummy_command(module: ModuleType, engine: EngineOptions, folder: Path) -> Command | None:
    """Of a model that is written into `folder`."""
    command: Command | None = module.dummy_command(engine, folder)
    like = engine.gguf.with_suffix("")
    if command is not None and not like.is_dir():
        raise FileNotFoundError(f"no control plane without the folder {like}, whose tokenizer its model takes")
    if command is not None:
        write_tiny_model(like, folder)
    return command


async def _loads(url: str, model: str, num_streams: list[int], figures: Figures) -> None:
    seed = time.time_ns() % 2**32
    async with Client(url, model) as client:
        await _run(client, _fresh(2, seed), 1)  # warm-up
        for streams in num_streams:
            summary = summarize(await _run(client, _fresh(max(8, 3 * streams), seed + streams), streams))
            figures[f"tok/s, {streams} streams"] = summary.output_tokens_per_s
            figures[f"TTFT p50 ms, {streams} streams"] = summary.ttft_p50_ms
        shared = shared_prefix(
            48, num_groups=1, prefix_tokens=800, question_tokens=40, output_tokens=16, vocab_size=VOCAB_SIZE, seed=seed + 99
        )
        figures["shared prefix, req/s"] = summarize(await _run(client, shared, 16)).requests_per_s


async def _control_plane_loads(url: str, model: str, figures: Figures) -> None:
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


def _fresh(num_sessions: int, seed: int) -> list[Session]:
    return fresh(num_sessions, prompt_tokens=100, output_tokens=64, vocab_size=VOCAB_SIZE, seed=seed)


async def _run(client: Client, sessions: list[Session], concurrency: int) -> list[Sample]:
    samples = await closed_loop(client, sessions, concurrency)
    if error := next((sample.error for sample in samples if sample.error), None):
        raise RuntimeError(f"a request failed, so this run measures nothing: {error}")
    return samples


if __name__ == "__main__":
    main()
