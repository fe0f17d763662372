"""Callboard itself, with its default settings."""

from __future__ import annotations

from perf.engines import Command, EngineOptions

NAME = "callboard"


def command(options: EngineOptions) -> Command:
    python = options.venv / "bin" / "python"
    return Command([str(python), "-m", "runtime.serve", "--model-path", str(options.gguf), "--port", str(options.port)])
