"""A fake server for each test, and a backend that talks to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.retry import Retry
from tests.frontend.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def backend(server: FakeServer) -> Iterator[RuntimeEndpoint]:
    """What it asks when it is made is not in `server.requests`."""
    backend = RuntimeEndpoint(server.url, retry=Retry(first_pause_s=0.0))
    server.requests.clear()
    yield backend
    backend.shutdown()
