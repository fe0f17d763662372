from __future__ import annotations

import logging
import os

import pytest
import torch

from kernels import build, native
from kernels.gated_activation import gelu_and_mul, silu_and_mul
from kernels.paged_attention import paged_attention
from kernels.quantized_linear import quantize, quantized_linear
from kernels.rms_norm import add_rms_norm, rms_norm
from kernels.rope import rope_and_write

EXPORT = '__attribute__((visibility("default")))'
SOURCE = (
    EXPORT
    + " long callboard_set_num_threads(const long *count) {{ return *count; }}\n"
    + EXPORT
    + " long callboard_answer(const char *slots) {{ return {}; }}\n"
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled or remembered yet, an empty cache, and one small source to compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "sources" / "answer" / "answer.c"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE.format("slots[0]"))
    monkeypatch.setattr(build, "SOURCES", tmp_path / "sources")
    native.library.cache_clear()
    native.compiled_function.cache_clear()
    yield tmp_path / "cache" / "callboard" / "kernels"
    native.library.cache_clear()
    native.compiled_function.cache_clear()


def test_compiles_once_into_a_private_folder(fresh, toolchain, caplog):
    caplog.set_level(logging.INFO)
    path = build.build()
    assert path.parent == fresh
    assert fresh.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in fresh.iterdir()] == [path.name]
    assert build.build() == path
    assert len([record for record in caplog.records if "compiled the C kernels" in record.message]) == 1


def test_calls_what_it_compiled(fresh, toolchain, tmp_path):
    answer = native.function("answer")
    assert answer is not None
    assert answer(b"*") == 42


def test_a_changed_source_is_compiled_anew(fresh, toolchain):
    before = build.build()
    (build.SOURCES / "answer" / "answer.c").write_text(SOURCE.format("43"))
    assert build.build() != before


def test_every_operation_finds_its_function(compiled):
    for name in ("rms_norm", "rope_and_write", "paged_attention", "gated_activation", "quantized_linear", "float_linear"):
        assert native.function(name) is not None


def call_everything() -> None:
    rms_norm(torch.ones(1, 32), torch.ones(32), 1e-5)
    add_rms_norm(torch.ones(1, 32), torch.ones(1, 32), torch.ones(32), 1e-5)
    silu_and_mul(torch.ones(1, 32))
    gelu_and_mul(torch.ones(1, 32))
    quantized_linear(torch.ones(1, 32), quantize(torch.ones(16, 32)))
    heads, pages, at = torch.ones(1, 1, 8), torch.zeros(1, 1, 4, 8), torch.zeros(1, dtype=torch.int32)
    rope_and_write(heads, heads, heads, torch.ones(1, 8), at, pages, pages, at)
    paged_attention(heads, pages, pages, torch.tensor([0, 1], dtype=torch.int32), at + 1, at[None], 1.0)


def test_without_a_compiler_torch_serves_and_one_line_says_so(fresh, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    call_everything()
    call_everything()
    lines = [record.getMessage() for record in caplog.records if record.name == "kernels.native"]
    assert len(lines) == 1
    assert "no C compiler on PATH (looked for cc, gcc, clang)" in lines[0]
    assert "torch serves" in lines[0]
    assert not list(fresh.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_refuses_a_folder_that_others_can_write(fresh, toolchain, caplog, mode):
    fresh.mkdir(parents=True)
    fresh.chmod(mode)
    with pytest.raises(build.BuildError, match="can be written by other users"):
        build.build()
    assert native.library() is None
    assert "can be written by other users" in caplog.text


def test_refuses_a_folder_in_one_that_anybody_can_rename(fresh):
    fresh.mkdir(parents=True, mode=0o700)
    fresh.parent.chmod(0o777)
    with pytest.raises(build.BuildError, match="world-writable"):
        build.private_folder(fresh)
    fresh.parent.chmod(0o1777)
    fresh.chmod(0o700)
    assert build.private_folder(fresh) == fresh


def test_refuses_a_library_that_others_can_write(fresh, toolchain):
    build.build().chmod(0o722)
    with pytest.raises(build.BuildError, match="can be written by other users"):
        build.build()


def test_refuses_what_another_user_owns(fresh, monkeypatch):
    fresh.mkdir(parents=True, mode=0o700)
    fresh.chmod(0o700)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(build.BuildError, match="belongs to another user"):
        build.private_folder(fresh)


def test_a_failed_compilation_leaves_nothing(fresh, toolchain):
    build.private_folder(fresh)
    with pytest.raises(build.BuildError, match="failed"):
        build.compile_library(toolchain, fresh / "x.so", ("-include", "nowhere.h"))
    assert not list(fresh.iterdir())


def test_the_name_changes_with_the_compiler_and_its_flags(toolchain):
    name = build.fingerprint(toolchain)
    assert build.fingerprint(build.Toolchain(toolchain.compiler, (), toolchain.macros)) != name
    assert build.fingerprint(build.Toolchain(toolchain.compiler, toolchain.cpu_flags, b"another")) != name


def test_a_library_that_cannot_be_loaded_is_not_fatal(fresh, toolchain, caplog):
    build.build().write_bytes(b"not a library")
    assert native.library() is None
    assert "C kernels are not available" in caplog.text
