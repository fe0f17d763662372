"""Callboard itself, with its default settings."""

from __future__ import annotations

from pathlib import Path

from perf.engines import Command, EngineOptions

NAME = "callboard"


def command(options: EngineOptions) -> Command:
    return _serve(options, "--model-path", str(options.gguf))


def dummy_command(options: EngineOptions, folder: Path) -> Command:
    return _serve(options, "--model-path", str(folder), "--load-format", "dummy")


def _serve(options: EngineOptions, *flags: str) -> Command:
    python = options.venv / "bin" / "python"
    return Command([str(python), "-m", "runtime.serve", "--port", str(options.port), *flags])
