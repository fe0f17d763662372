"""A GGUF file made by hand, so that every field of it can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STRING, ARRAY, UINT32, FLOAT32 = 8, 9, 4, 6
F32, Q8_0 = 0, 8

Tensors = dict[str, tuple[tuple[int, ...], int, bytes]]

METADATA: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "general.alignment": (UINT32, 32),
    "llama.block_count": (UINT32, 1),
    "llama.context_length": (UINT32, 64),
    "llama.embedding_length": (UINT32, 32),
    "llama.feed_forward_length": (UINT32, 32),
    "llama.attention.head_count": (UINT32, 2),
    "llama.attention.head_count_kv": (UINT32, 1),
    "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
    "tokenizer.ggml.tokens": (ARRAY, ["a", "b", "<c>", ""]),
}


def f32_tensor(rows: int, columns: int = 0) -> tuple[tuple[int, ...], int, bytes]:
    """Shape as the file has it (innermost first), type and data."""
    values = np.linspace(-1, 1, rows * (columns or 1), dtype=np.float32)
    return ((columns, rows) if columns else (rows,)), F32, values.tobytes()


def tensors() -> Tensors:
    return {
        "token_embd.weight": f32_tensor(4, 32),
        "output_norm.weight": f32_tensor(32),
        "blk.0.attn_norm.weight": f32_tensor(32),
        "blk.0.attn_q.weight": f32_tensor(32, 32),
        "blk.0.attn_k.weight": f32_tensor(16, 32),
        "blk.0.attn_v.weight": f32_tensor(16, 32),
        "blk.0.attn_output.weight": ((32, 32), Q8_0, b"\x00\x3c" * 17 * 32),
        "blk.0.ffn_norm.weight": f32_tensor(32),
        "blk.0.ffn_gate.weight": f32_tensor(32, 32),
        "blk.0.ffn_up.weight": f32_tensor(32, 32),
        "blk.0.ffn_down.weight": f32_tensor(32, 32),
    }


class Writer:
    """Builds a file and remembers where its numbers are."""

    def __init__(self) -> None:
        self.content = b""
        self.numbers: list[tuple[int, str]] = []
        """Position and struct format of every count, length, type, dimension, offset and value."""

    def number(self, layout: str, value: float) -> None:
        self.numbers.append((len(self.content), layout))
        self.content += struct.pack(layout, value)

    def string(self, text: str) -> None:
        self.number("<Q", len(text.encode()))
        self.content += text.encode()

    def value(self, kind: int, content: Any) -> None:
        if kind == STRING:
            self.string(content)
        elif kind == ARRAY:
            self.number("<I", STRING)
            self.number("<Q", len(content))
            for item in content:
                self.string(item)
        else:
            self.number("<f" if kind == FLOAT32 else "<I", content)

    def align(self) -> None:
        self.content += b"\0" * (-len(self.content) % 32)


def write_file(metadata: dict[str, tuple[int, Any]] | None = None, contents: Tensors | None = None, version: int = 3) -> Writer:
    """A whole file."""
    metadata = METADATA if metadata is None else metadata
    contents = tensors() if contents is None else contents
    writer = Writer()
    writer.content = b"GGUF"
    for layout, number in (("<I", version), ("<Q", len(contents)), ("<Q", len(metadata))):
        writer.number(layout, number)
    for key, (kind, content) in metadata.items():
        writer.string(key)
        writer.number("<I", kind)
        writer.value(kind, content)
    _write_tensors(writer, contents)
    return writer


def _write_tensors(writer: Writer, contents: Tensors) -> None:
    data = Writer()
    for name, (shape, kind, raw) in contents.items():
        writer.string(name)
        writer.number("<I", len(shape))
        for size in shape:
            writer.number("<Q", size)
        writer.number("<I", kind)
        writer.number("<Q", len(data.content))
        data.content += raw
        data.align()
    writer.align()
    writer.content += data.content


WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """Writes bytes, or the valid file with other metadata or tensors, to a .gguf file."""

    def write(content: bytes | None = None, **changes: Any) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(write_file(**changes).content if content is None else content)
        return path

    return write
