"""The GGUF container: metadata as plain values, and tensors that are dequantized when they are loaded.

Receives a path, keeps the file mapped for as long as a tensor of it lives. Every count, length and offset in the file is
checked against the file's size before it is used, so that a cut or hostile file ends as one `LoadError`.

The header is decoded here and not by `gguf.GGUFReader`, which makes a numpy array of every string: 2.2 s for a vocabulary of
49k tokens, against 0.05 s. Layout: github.com/ggml-org/ggml, docs/gguf.md. Block formats and their dequantization are gguf's.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import gguf
import numpy as np
import numpy.typing as npt

from runtime.errors import LoadError
from runtime.loading.stored_tensor import Shape, StoredBlocks

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
ValueType = gguf.GGUFValueType
BlockType = gguf.GGMLQuantizationType

PLAIN_TYPES = (BlockType.F64, BlockType.F32, BlockType.F16, BlockType.BF16)

MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4
ELEMENTS_PER_GROUP = 2**18  # dequantized at a time: few enough to stay in the cache, enough to hide numpy's overhead
ROWS_PER_GROUP = 16  # gguf.dequantize works on groups of so many rows

_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_SCALARS: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file. `data` is a view into the mapped file: nothing is read before it is used."""

    name: str
    shape: Shape
    block_type: BlockType
    data: Bytes
    row_order: npt.NDArray[np.int64] | None = None
    """Index of the stored row for each row, where the file keeps them in another order than the model."""

    def rows(self) -> Bytes:
        """The blocks as stored, in the model's order of rows.  # [rows, bytes per row] uint8"""
        rows = self.data.reshape(self.shape[0], -1)
        return rows if self.row_order is None else rows[self.row_order]

    def load(self) -> torch.Tensor:
        """The values: bfloat16 and float16 as they are, all else as float32. Raises `LoadError` on an unknown block type."""
        import torch

        rows = self.rows()
        match self.block_type:
            case BlockType.F32:
                values = torch.from_numpy(rows.view(np.float32).copy())
            case BlockType.F16:
                values = torch.from_numpy(rows.view(np.float16).copy())
            case BlockType.BF16:
                values = torch.from_numpy(rows.view(np.int16).copy()).view(torch.bfloat16)
            case _:
                values = torch.from_numpy(self._dequantize(rows))
        return values.reshape(self.shape)

    def blocks(self) -> StoredBlocks | None:
        """As stored, in the model's order of rows; None for plain numbers."""
        import torch

        if self.block_type in PLAIN_TYPES:
            return None
        return StoredBlocks(torch.from_numpy(self.rows().copy()), self.block_type.name)

    def _dequantize(self, rows: Bytes) -> npt.NDArray[np.float32]:
        """In long rows of whole blocks: 4× faster than in the tensor's own rows, which gguf takes 16 at a time."""
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[self.block_type]
        num_blocks = rows.size // block_bytes
        per_row = max(1, min(num_blocks, ELEMENTS_PER_GROUP // ROWS_PER_GROUP // block_elements))
        while num_blocks % per_row:
            per_row -= 1
        try:
            values: npt.NDArray[np.float32] = gguf.dequantize(rows.reshape(-1, per_row * block_bytes), self.block_type)
        except NotImplementedError as error:
            raise LoadError(f"tensor {self.name!r} is stored as {self.block_type.name}, which can not be read") from error
        return values


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The contents of one file: `metadata` values are numbers, booleans, strings and lists of these."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> GgufFile:
    """Open and check `path`. Raises `LoadError` when it is not a whole, valid GGUF file of version 2 or 3."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file can not be mapped
        raise LoadError(f"{path}: can not be read as a GGUF file: {error}") from error
    cursor = _Cursor(data, path)
    _check_version(cursor)
    num_tensors, num_entries = cursor.uint64(), cursor.uint64()
    metadata = _read_metadata(cursor, num_entries)
    return GgufFile(path, metadata, _read_tensors(cursor, num_tensors, metadata.get("general.alignment")))


class _Cursor:
    """A position in the file that can not leave it.

    Every item takes some bytes, so that a false count of items ends with the file.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.offset = 0

    def fail(self, reason: str) -> NoReturn:
        raise LoadError(f"{self.path}: not a valid GGUF file, {reason}; download it again")

    def skip(self, num_bytes: int) -> int:
        """Advance; returns where the bytes begin."""
        start = self.offset
        if num_bytes > len(self.data) - start:
            self.fail(f"it ends inside its header (at byte {len(self.data)})")
        self.offset = start + num_bytes
        return start

    def uint32(self) -> int:
        value: int = _UINT32.unpack_from(self.data, self.skip(4))[0]
        return value

    def uint64(self) -> int:
        value: int = _UINT64.unpack_from(self.data, self.skip(8))[0]
        return value

    def string(self) -> str:
        length = self.uint64()
        start = self.skip(length)
        try:
            return self.data[start : self.offset].decode()
        except UnicodeDecodeError:
            self.fail(f"the string at byte {start} is not UTF-8")

    def numbers(self, dtype: np.dtype[Any], num_items: int) -> list[Any]:
        start = self.skip(num_items * dtype.itemsize)
        values: list[Any] = np.frombuffer(self.data, dtype, num_items, start).tolist()
        return values


def _check_version(cursor: _Cursor) -> None:
    if cursor.data[:4] != b"GGUF":
        cursor.fail("it does not begin with 'GGUF'")
    cursor.skip(4)
    version = cursor.uint32()
    if version & 0xFFFF == 0:
        cursor.fail("it is big-endian")
    if version not in (2, 3):
        cursor.fail(f"its version is {version}, and 2 and 3 are known")


def _read_metadata(cursor: _Cursor, num_entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.string()
        if key in metadata:
            cursor.fail(f"it has the metadata key {key!r} twice")
        metadata[key] = _read_value(cursor, _value_type(cursor), 0)
    return metadata


def _value_type(cursor: _Cursor) -> ValueType:
    number = cursor.uint32()
    try:
        return ValueType(number)
    except ValueError:
        cursor.fail(f"it has a metadata value of unknown type {number}")


def _read_value(cursor: _Cursor, value_type: ValueType, depth: int) -> Any:
    if value_type == ValueType.STRING:
        return cursor.string()
    if value_type == ValueType.ARRAY:
        return _read_array(cursor, depth + 1)
    return cursor.numbers(_SCALARS[value_type], 1)[0]


def _read_array(cursor: _Cursor, depth: int) -> list[Any]:
    if depth > MAX_ARRAY_DEPTH:
        cursor.fail("its arrays are nested too deep")
    value_type, num_items = _value_type(cursor), cursor.uint64()
    if value_type == ValueType.STRING:
        return [cursor.string() for _ in range(num_items)]
    if value_type == ValueType.ARRAY:
        return [_read_array(cursor, depth + 1) for _ in range(num_items)]
    return cursor.numbers(_SCALARS[value_type], num_items)


@dataclass(frozen=True, slots=True)
class _TensorEntry:
    name: str
    shape: Shape
    block_type: BlockType
    offset_bytes: int
    num_bytes: int


def _read_tensors(cursor: _Cursor, num_tensors: int, alignment: object) -> dict[str, GgufTensor]:
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    alignment = _check_alignment(cursor, alignment)
    start = -(-cursor.offset // alignment) * alignment
    _check_layout(cursor, entries, alignment, len(cursor.data) - start)
    return {entry.name: _view(cursor.data, start, entry) for entry in entries}


def _read_entry(cursor: _Cursor) -> _TensorEntry:
    name = cursor.string()
    num_dimensions = cursor.uint32()
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"tensor {name!r} has {num_dimensions} dimensions")
    shape = tuple(cursor.uint64() for _ in range(num_dimensions))[::-1]
    number, offset_bytes = cursor.uint32(), cursor.uint64()
    try:
        block_type = BlockType(number)
    except ValueError:
        cursor.fail(f"tensor {name!r} has the unknown type {number}")
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[block_type]
    num_elements = 1
    for size in shape:
        num_elements *= size  # Python integers: no overflow
    if num_elements == 0 or shape[-1] % block_elements:
        cursor.fail(f"tensor {name!r} has the impossible shape {shape}")
    return _TensorEntry(name, shape, block_type, offset_bytes, num_elements // block_elements * block_bytes)


def _check_alignment(cursor: _Cursor, alignment: object) -> int:
    if alignment is None:
        return int(gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.fail(f"its alignment is {alignment!r}, not a power of two")
    return alignment


def _check_layout(cursor: _Cursor, entries: list[_TensorEntry], alignment: int, num_bytes: int) -> None:
    end_of_last = 0
    for entry in sorted(entries, key=lambda entry: entry.offset_bytes):
        if entry.offset_bytes % alignment or entry.offset_bytes < end_of_last:
            cursor.fail(f"tensor {entry.name!r} overlaps another or is not aligned")
        end_of_last = entry.offset_bytes + entry.num_bytes
        if end_of_last > num_bytes:
            cursor.fail(f"it ends before tensor {entry.name!r} does (at byte {len(cursor.data)})")
    if len({entry.name for entry in entries}) != len(entries):
        cursor.fail("two tensors have the same name")


def _view(data: mmap.mmap, start: int, entry: _TensorEntry) -> GgufTensor:
    raw = np.frombuffer(data, np.uint8, entry.num_bytes, start + entry.offset_bytes)
    return GgufTensor(entry.name, entry.shape, entry.block_type, raw)
