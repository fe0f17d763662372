"""Where and when figures come from: date, commit, machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Provenance:
    """`commit` has a + where the files differ from it, and is `unknown` outside a repository."""

    date: str
    commit: str
    machine: str
    versions: str

    def __str__(self) -> str:
        return f"{self.date}, commit {self.commit}, {self.machine}, {self.versions}"


def of_machine(device: str = "cpu") -> Provenance:
    """Now, here. The name of a GPU is asked of PyTorch."""
    machine = _gpu() if device == "cuda" else f"{os.cpu_count()} CPUs, {_processor()}"
    names = {"Python": platform.python_version(), "torch": _version("torch"), "triton": _version("triton")}
    versions = ", ".join(f"{name} {found}" for name, found in names.items() if found)
    return Provenance(datetime.now(UTC).strftime("%Y-%m-%d"), commit(), machine, versions)


def commit(root: Path = ROOT) -> str:
    """The short hash of what is checked out."""
    revision = _git(root, "rev-parse", "--short", "HEAD")
    if not revision:
        return "unknown"
    return f"{revision}+" if _git(root, "status", "--porcelain", "--untracked-files=no") else revision


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU that PyTorch sees"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
