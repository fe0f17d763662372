"""A local server that speaks each API, and a server of ours, one of each for all tests of the backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess, running
from tests.frontend.backends.api_server import ApiServer
from tests.frontend.backends.wires import WIRES, Wire


@pytest.fixture(scope="session")
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


@pytest.fixture(scope="session")
def callboard(embedded_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(["--max-total-tokens", "8192"], tmp_path_factory.mktemp("callboard") / "log") as process:
        yield process
