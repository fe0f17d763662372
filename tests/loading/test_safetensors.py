"""Safetensors folders: whole ones give their tensors, broken ones one `LoadError` that names the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import LoadError
from runtime.loading.safetensors import read_safetensors


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A folder with one weight file."""
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder with two shards and their index."""
    save_file({"a": torch.arange(6.0)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(4)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_single_file(single: Path) -> None:
    tensors = read_safetensors(single)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "a": ((2, 3), "F32"),
        "b": ((4,), "BF16"),
    }
    assert torch.equal(tensors["a"].load(), torch.arange(6.0).reshape(2, 3))
    assert tensors["b"].load().dtype == torch.bfloat16


def test_shards(sharded: Path) -> None:
    tensors = read_safetensors(sharded)
    assert torch.equal(tensors["a"].load(), torch.arange(6.0))
    assert torch.equal(tensors["b"].load(), torch.ones(4))


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert read_safetensors(sharded).keys() == {"a", "b"}


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(LoadError, match=r"two\.safetensors is missing"):
        read_safetensors(sharded)


def test_a_tensor_that_only_the_index_has_is_named(sharded: Path) -> None:
    write_index(sharded, {"c": "one.safetensors"})
    with pytest.raises(LoadError, match="lacks the tensor 'c'"):
        read_safetensors(sharded)


@pytest.mark.parametrize("file_name", ["../one.safetensors", "/etc/passwd", "weights.bin", 7, None])
def test_an_index_can_not_name_other_files(sharded: Path, file_name: object) -> None:
    write_index(sharded, {"a": file_name})
    with pytest.raises(LoadError, match=r"not a \.safetensors file of this folder"):
        read_safetensors(sharded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000], ids=lambda text: text[:20])
def test_a_broken_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(LoadError, match="not a valid index"):
        read_safetensors(sharded)


def test_a_file_cut_anywhere_is_refused(single: Path) -> None:
    path = single / "model.safetensors"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(LoadError, match=r"model\.safetensors is not a whole"):
            read_safetensors(single)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_header_length_is_refused(single: Path, length: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(LoadError):
        read_safetensors(single)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]},
    ],
    ids=str,
)
def test_a_wrong_header_is_refused(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(LoadError):
        read_safetensors(tmp_path)


def test_integers_are_not_weights(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match="quantized"):
        read_safetensors(tmp_path)["a"].load()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(LoadError, match="convert them to safetensors"):
        read_safetensors(tmp_path)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no \.safetensors files"):
        read_safetensors(tmp_path)
