"""Fixtures for all tests: the embedded model and the folder of shared data; a test without its input is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from runtime.errors import CallboardError

if TYPE_CHECKING:
    from tests.rank_pool import RankPool

settings.register_profile("callboard", deadline=None)  # how long an example takes is up to the machine
settings.load_profile("callboard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--callboard-data", default=None, help="folder of shared test data; by default CALLBOARD_DATA")


@pytest.fixture(scope="session")
def embedded_gguf() -> Path:
    """The GGUF file of the embedded model, downloaded into the cache folder once."""
    from runtime.loading.embedded import embedded_model

    try:
        return embedded_model()
    except CallboardError as error:
        pytest.skip(f"no embedded model: {error}")


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of data sets that some tests read."""
    folder = pytestconfig.getoption("--callboard-data") or os.environ.get("CALLBOARD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no shared data: give its folder with --callboard-data or CALLBOARD_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[RankPool]:
    """Processes that can be ranks of a group."""
    from tests.rank_pool import RankPool

    pool = RankPool()
    yield pool
    pool.stop()
