"""The servers that are measured side by side; one file each says how to start one.

A module offers `NAME`, `command(options) -> Command`, and `dummy_command(options, folder) -> Command | None` for a model folder
without weights, None if the engine can not make some up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class EngineOptions:
    """Where to find an engine and its model. `venv` is the engine's own virtual environment."""

    venv: Path
    gguf: Path
    port: int
    num_threads: int
    max_streams: int


@dataclass(frozen=True)
class Command:
    """A server process: arguments, additional environment, and the model name its API expects."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    model: str = "default"
