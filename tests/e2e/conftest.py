"""The embedded model behind a real socket, started once for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess, running


@pytest.fixture(scope="session")
def server(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(["--max-total-tokens", "32768"], tmp_path_factory.mktemp("server") / "log") as process:
        yield process
