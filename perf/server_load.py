"""A server of a shape under a closed loop of streams: `python -m perf.server_load --device cuda --shape llama-3.1-8b`.

Starts `runtime.serve` with random weights and gives it the load of `perf.serve_bench`: as many prompts as streams, long enough
answers that most of the time all of them decode. The median time between two tokens of a stream, less the bare step of that
batch, is what the server adds. What is not listed below is a flag of the server.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perf import shapes
from perf.engines import Command
from perf.server_process import running

MIN_PROMPTS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    options, flags = _parser().parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        shapes.write_folder(options.shape, Path(folder))
        port = free_port()
        model = ("--model-path", folder, "--load-format", "dummy")
        command = Command([sys.executable, "-m", "runtime.serve", "--port", str(port), *model, *_sizes(options), *flags])
        with running(command, port, options.log) as server:
            print(f"{options.shape}: ready after {server.start_up_s:.1f} s", flush=True)
            for streams in options.max_concurrency:
                subprocess.run(_bench(options, server.url, streams), check=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.server_load", description=__doc__, allow_abbrev=False)
    parser.add_argument("--shape", choices=shapes.names(), required=True)
    parser.add_argument("--max-concurrency", type=int, nargs="+", default=[1, 256], help="streams")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a sequence half way through its answer")
    parser.add_argument("--random-output-len", type=int, default=256)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir(), "callboard-perf-server.log"))
    parser.add_argument("--output-file", type=Path, help="one JSON line for each number of streams is added to it")
    return parser


def _sizes(options: argparse.Namespace) -> list[str]:
    """Every stream has a slot, and none is retracted."""
    streams = max(options.max_concurrency)
    max_tokens = options.context + options.random_output_len
    sizes = {"max-running-requests": streams, "context-length": max_tokens, "max-total-tokens": (streams + 2) * max_tokens}
    return [text for name, value in sizes.items() for text in (f"--{name}", str(value))]


def _bench(options: argparse.Namespace, url: str, streams: int) -> list[str]:
    prompt_tokens = max(1, options.context - options.random_output_len // 2)
    settings = {
        "base-url": url,
        "max-concurrency": streams,
        "num-prompts": max(streams, MIN_PROMPTS),
        "random-input-len": prompt_tokens,
        "random-output-len": options.random_output_len,
        "vocab-size": shapes.read(options.shape)["vocab_size"],
    }
    if options.output_file is not None:
        settings["output-file"] = options.output_file
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "perf.serve_bench", *flags]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
