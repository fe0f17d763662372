"""llama.cpp's own HTTP server, from the PyPI package `xllamacpp`."""

from __future__ import annotations

from pathlib import Path

from perf.engines import Command, EngineOptions

NAME = "llama.cpp"

CONTEXT_TOKENS_PER_SLOT = 1024

# Runs in the peer's environment, which has nothing of ours.
SERVER = """
import signal, sys, xllamacpp
model, port, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = model, ["127.0.0.1"], port
params.n_parallel, params.n_ctx = slots, context
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
signal.pause()
"""


def command(options: EngineOptions) -> Command:
    context = CONTEXT_TOKENS_PER_SLOT * options.max_streams
    numbers = (options.port, options.num_threads, options.max_streams, context)
    python = options.venv / "bin" / "python"
    return Command([str(python), "-c", SERVER, str(options.gguf), *map(str, numbers)])


def dummy_command(options: EngineOptions, folder: Path) -> None:
    """It needs real weights."""
    return None
