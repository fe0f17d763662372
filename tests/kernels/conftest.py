"""The C kernels as built for this CPU and for lesser ones, each put in the place of the one that serves."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels import build, native

CPU_FLAGS = {"native": None, "plain": ()}
if platform.machine() in ("x86_64", "AMD64"):
    CPU_FLAGS |= {"avx2": ("-march=x86-64-v3",)}


@pytest.fixture(scope="session")
def toolchain() -> build.Toolchain:
    try:
        return build.find_toolchain()
    except build.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(params=CPU_FLAGS)
def compiled(
    request: pytest.FixtureRequest, toolchain: build.Toolchain, compiled_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Every kernel runs in C, built for the CPU that the parameter names."""
    flags = CPU_FLAGS[request.param]
    path = build.build() if flags is None else compiled_folder / f"{request.param}.so"
    if not path.exists():
        chosen = build.Toolchain(toolchain.compiler, flags or (), b"")
        build.compile_library(chosen, path, ("-O1",))  # -O3 would take half a minute
    library = ctypes.CDLL(str(path))
    monkeypatch.setattr(native, "library", lambda: library)
    native.compiled_function.cache_clear()
    native.set_num_threads(1)
    yield request.param
    native.compiled_function.cache_clear()


@pytest.fixture(params=(torch.bfloat16, torch.float32), ids=("bf16", "fp32"))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(autouse=True, scope="session")
def torch_has_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
