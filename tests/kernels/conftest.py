"""The C kernels as built for this CPU and for lesser ones, each put in the place of the one that serves; and Triton's.

Triton kernels run on the GPU, or in Triton's interpreter on the CPU where there is none. A kernel, Triton's own included, is
made for the one or the other when its module is imported, so this file comes first. Tests of them start with
`pytest.importorskip("triton")`, before they import the kernels.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kernels import build, native

ROOT = Path(__file__).parents[2]
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"

TRITON_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
if HAS_GPU:
    TRITON_DTYPES |= {"bf16": torch.bfloat16}  # the interpreter's bf16 dot is wrong

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
def triton_device() -> torch.device:
    """Where the Triton kernels of this process find their tensors."""
    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture(params=TRITON_DTYPES)
def triton_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return TRITON_DTYPES[request.param]


@pytest.fixture(scope="session")
def compiled_for_hopper() -> Callable[[str], list[dict[str, object]]]:
    """Compiles all that `launches()` of the named test module launches; see `compile_launches`. Fails with what does not."""

    def compile_all(module: str) -> list[dict[str, object]]:
        command = (sys.executable, "-m", "tests.kernels.compile_launches", module)
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        failed = "\n".join(f"{report['launch']}: {report['error']}" for report in reports if "error" in report)
        assert reports, "nothing was launched"
        assert not failed, failed
        return reports

    return compile_all


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(autouse=True, scope="session")
def torch_has_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
