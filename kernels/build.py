"""Compiles the C kernels into one shared library in the user's cache, once for each source, compiler and CPU.

Owns `<cache>/callboard/kernels/`. The file name is a hash of all sources, the flags and the compiler's predefined macros, which
tell its version and every CPU feature it will use: another machine or a new compiler gets another file. Invariant: a library
is loaded only from a folder that belongs to this user and that nobody else can write to.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
CPU_FLAGS = (("-march=native",), ("-mcpu=native",), ())
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-Wno-psabi", "-pthread")
COMPILE_TIMEOUT_S = 300

logger = logging.getLogger(__name__)


class BuildError(Exception):
    """The C kernels cannot be had here; the text says why."""


@dataclass(frozen=True)
class Toolchain:
    """A compiler, the flags that aim it at this CPU, and the macros it then predefines."""

    compiler: str
    cpu_flags: tuple[str, ...]
    macros: bytes


def build() -> Path:
    """The shared library for this machine, compiled now if it is not in the cache. Raises BuildError."""
    if sys.platform == "win32":
        raise BuildError("the C kernels need Linux or macOS")
    folder = private_folder(cache_folder())
    toolchain = find_toolchain()
    library = folder / f"{fingerprint(toolchain)}.so"
    if library.exists():
        check_private(library)
    else:
        compile_library(toolchain, library)
    return library


def cache_folder() -> Path:
    """Where compiled kernels are kept: XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "callboard" / "kernels"


def private_folder(folder: Path) -> Path:
    """`folder`, made if it is not there, with links resolved. Raises BuildError if somebody else could write to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{folder} cannot be made: {error.strerror}") from error
    folder = folder.resolve()
    check_private(folder)
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if mode & 0o002 and not mode & 0o1000:  # anyone may rename what lies in it, unless it is sticky
            raise BuildError(f"{parent} is world-writable")
    return folder


def check_private(path: Path) -> None:
    """Raises BuildError unless this user owns `path` and is the only one who can write to it."""
    status = path.lstat()
    if status.st_uid != os.getuid():
        raise BuildError(f"{path} belongs to another user")
    if status.st_mode & 0o022:
        raise BuildError(f"{path} can be written by other users")


def find_toolchain() -> Toolchain:
    """The first compiler on PATH that works, with the first flags for this CPU that it takes. Raises BuildError."""
    for name in COMPILERS:
        compiler = shutil.which(name)
        if compiler is None:
            continue
        for cpu_flags in CPU_FLAGS:
            probe = (compiler, *cpu_flags, "-dM", "-E", "-x", "c", os.devnull)
            done = subprocess.run(probe, capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False)
            if done.returncode == 0:
                return Toolchain(compiler, cpu_flags, done.stdout)
    raise BuildError(f"no C compiler on PATH (looked for {', '.join(COMPILERS)})")


def source_files() -> list[Path]:
    return sorted(path for path in SOURCES.rglob("*") if path.suffix in (".c", ".h"))


def fingerprint(toolchain: Toolchain) -> str:
    """A hash of everything that decides what the compiled code is."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (*toolchain.cpu_flags, *FLAGS, sys.platform):
        digest.update(part.encode() + b"\0")
    digest.update(toolchain.macros)
    return digest.hexdigest()


def compile_library(toolchain: Toolchain, library: Path, extra_flags: Sequence[str] = ()) -> None:
    """Compiles every source into `library`, which appears complete or not at all. Raises BuildError."""
    started = time.monotonic()
    flags = (*FLAGS, *toolchain.cpu_flags, *extra_flags)
    sources = [path for path in source_files() if path.suffix == ".c"]
    with tempfile.TemporaryDirectory(dir=library.parent) as folder, ThreadPoolExecutor() as pool:
        objects = [Path(folder) / f"{path.stem}.o" for path in sources]
        pairs = zip(sources, objects, strict=True)
        list(pool.map(run_compiler, [(toolchain.compiler, *flags, "-c", str(path), "-o", str(made)) for path, made in pairs]))
        output = Path(folder) / library.name
        made = [str(path) for path in objects]
        run_compiler((toolchain.compiler, "-shared", "-pthread", "-o", str(output), *made, *extra_flags, "-lm"))
        output.chmod(0o700)
        output.replace(library)
    logger.info("compiled the C kernels in %.1f s into %s", time.monotonic() - started, library)


def run_compiler(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
        raise BuildError(f"{command[0]} failed: {reason}")
