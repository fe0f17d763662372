"""What the server costs when the model is free: `python -m perf.control_plane --streams 1 16 128 1024`.

For each number of streams a fresh server over a mock executor, asked for 20 tokens in and 128 out in a closed loop. Prints
tokens per second, the server's own CPU time per token, and how late its event loop was.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import psutil
from tqdm import tqdm

from perf.engines import Command
from perf.load import Client, Sample, closed_loop
from perf.server_process import running
from perf.summary import summarize
from perf.workloads.random import fresh

PROMPT_TOKENS, OUTPUT_TOKENS = 20, 128
COLUMNS = "{:>8} {:>10} {:>13} {:>10} {:>10} {:>11} {:>11}"
HEADINGS = ("streams", "tok/s", "CPU us/token", "TTFT p50", "ITL p99", "lag p50 ms", "lag p99 ms")


@dataclass(frozen=True)
class Figures:
    """Latencies in milliseconds; `cpu_us_per_token` is the server's process time."""

    streams: int
    tokens_per_s: float
    cpu_us_per_token: float
    ttft_p50_ms: float
    itl_p99_ms: float
    lag_p50_ms: float
    lag_p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.control_plane", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 128, 1024])
    parser.add_argument("--seconds", type=float, default=5.0, help="roughly how long each takes, at 20,000 tokens a second")
    parser.add_argument("--port", type=int, default=31500)
    parser.add_argument("--output-file", type=Path, help="JSON with every row")
    options = parser.parse_args()
    print(COLUMNS.format(*HEADINGS))
    rows = []
    for streams in options.streams:
        rows.append(_measure(streams, options.port, options.seconds))
        print(COLUMNS.format(streams, *(f"{figure:.1f}" for figure in list(asdict(rows[-1]).values())[1:])))
    if options.output_file:
        options.output_file.write_bytes(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2))


def _measure(streams: int, port: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        lag_file, log = Path(folder, "lag.json"), Path(folder, "log")
        arguments = [sys.executable, "-m", "perf.mock_server", "--lag-file", str(lag_file), "--port", str(port)]
        with running(Command(arguments=arguments, model="default", environment={}), port, log) as server:
            process = psutil.Process(server.process.pid)
            samples, cpu_s = asyncio.run(_load(server.url, streams, seconds, process))
        summary, lag = summarize(samples), orjson.loads(lag_file.read_bytes())
    num_tokens = sum(sample.num_tokens for sample in samples)
    return Figures(
        streams=streams,
        tokens_per_s=summary.output_tokens_per_s,
        cpu_us_per_token=cpu_s / num_tokens * 1e6,
        ttft_p50_ms=summary.ttft_p50_ms,
        itl_p99_ms=summary.itl_p99_ms,
        **lag,
    )


async def _load(url: str, streams: int, seconds: float, server: psutil.Process) -> tuple[list[Sample], float]:
    """The samples, and the CPU time in seconds that the server spent on them."""
    rate = min(20_000, 2_000 * streams)
    num_calls = max(2 * streams, round(seconds * rate / OUTPUT_TOKENS))
    sessions = fresh(
        num_calls, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS, vocab_size=49000, seed=time.time_ns() % 2**32
    )
    async with Client(url) as client:
        await closed_loop(client, sessions[:2], 1)  # warm-up
        before = server.cpu_times()
        with tqdm(total=num_calls, leave=False, unit="req", disable=None) as progress:
            samples = await closed_loop(client, sessions, streams, lambda _: progress.update())
        after = server.cpu_times()
    return samples, after.user + after.system - before.user - before.system


if __name__ == "__main__":
    main()
