"""GGUF files: whole ones are read as gguf's own reader reads them, all others end as one `LoadError`."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from runtime.config import ModelConfig
from runtime.errors import LoadError
from runtime.loading.checkpoint import open_checkpoint
from runtime.loading.gguf import GgufTensor, read_gguf
from runtime.models.architectures import spec_for
from runtime.models.spec import weight_shapes
from tests.loading.conftest import METADATA, STRING, UINT32, WriteGguf, tensors, write_file


def open_and_load(path: Path) -> None:
    """Everything that the server does with a file before it runs the model."""
    checkpoint = open_checkpoint(ModelConfig(model_path=str(path)))
    for tensor in checkpoint.tensors(weight_shapes(spec_for(checkpoint.config))).values():
        tensor.load()


def test_reads_what_gguf_writes(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    metadata = {
        "name": "Wörter",
        "count": 7,
        "negative": -7,
        "ratio": 0.25,
        "yes": True,
        "ids": [3, 1, 2],
        "words": ["a", "", "ü"],
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("name", "Wörter")
    writer.add_uint64("count", 7)
    writer.add_int8("negative", -7)
    writer.add_float64("ratio", 0.25)
    writer.add_bool("yes", True)
    writer.add_array("ids", [3, 1, 2])
    writer.add_array("words", ["a", "", "ü"])
    weight = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    writer.add_tensor("one", weight)
    writer.add_tensor("two", gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    file = read_gguf(path)
    assert file.metadata == metadata | {"general.architecture": "llama"}
    assert np.array_equal(file.tensors["one"].load().numpy(), weight)
    assert np.allclose(file.tensors["two"].load().numpy(), weight, atol=0.02)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("shape", [(3, 64), (40, 96), (1, 32)], ids=str)
def test_dequantizes_as_gguf_does(name: str, shape: tuple[int, int]) -> None:
    block_type = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stored = gguf.quantize(values, block_type)
    tensor = GgufTensor("x", shape, block_type, stored.view(np.uint8).reshape(-1))
    expected = gguf.dequantize(stored, block_type).reshape(shape)
    assert torch.equal(tensor.load().float(), torch.from_numpy(expected.copy()))


def test_row_order_holds_for_blocks_too() -> None:
    values = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    stored = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    order = np.array([3, 0, 5, 1, 2, 4])
    tensor = GgufTensor("x", (6, 32), gguf.GGMLQuantizationType.Q8_0, stored.reshape(-1), order)
    assert np.array_equal(tensor.load().numpy(), gguf.dequantize(stored, gguf.GGMLQuantizationType.Q8_0)[order])


def test_a_valid_file_loads(write_gguf: WriteGguf) -> None:
    path = write_gguf()
    open_and_load(path)
    file = read_gguf(path)
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b", "<c>", ""]
    assert file.tensors["token_embd.weight"].shape == (4, 32)
    assert np.array_equal(file.tensors["output_norm.weight"].load().numpy(), np.linspace(-1, 1, 32, dtype=np.float32))


def test_version_2_is_read(write_gguf: WriteGguf) -> None:
    open_and_load(write_gguf(version=2))


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_other_versions_are_refused(write_gguf: WriteGguf, version: int) -> None:
    with pytest.raises(LoadError, match=r"version|big-endian"):
        read_gguf(write_gguf(version=version))


def test_a_file_cut_anywhere_is_refused(write_gguf: WriteGguf) -> None:
    content = write_file().content
    for length in [*range(0, len(content), 64), len(content) - 1]:
        with pytest.raises(LoadError) as caught:
            open_and_load(write_gguf(content[:length]))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 2**31, 2**32 - 1, 2**63, 2**64 - 1], ids=hex)
def test_every_number_in_the_header_may_be_wrong(write_gguf: WriteGguf, number: int) -> None:
    """Counts, lengths, types, dimensions, offsets and values alike: it loads or it is a `LoadError`."""
    whole = write_file()
    num_refused = 0
    for position, layout in whole.numbers:
        raw = struct.pack("<Q", number)[: struct.calcsize(layout)]
        broken = whole.content[:position] + raw + whole.content[position + len(raw) :]
        try:
            open_and_load(write_gguf(broken))
        except LoadError:
            num_refused += 1
    assert num_refused > 0.8 * len(whole.numbers)


@pytest.mark.parametrize("alignment", [0, 3, 2**31, 2**32 - 1])
def test_bad_alignment_is_refused(write_gguf: WriteGguf, alignment: int) -> None:
    with pytest.raises(LoadError):
        read_gguf(write_gguf(metadata=METADATA | {"general.alignment": (UINT32, alignment)}))


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("block_count", 0),
        ("block_count", 2),
        ("block_count", 2**32 - 1),
        ("attention.head_count", 0),
        ("attention.head_count", 3),
        ("attention.head_count_kv", 0),
        ("embedding_length", 2**31),
        ("context_length", 0),
        ("context_length", 2**31),
    ],
)
def test_impossible_sizes_are_refused(write_gguf: WriteGguf, key: str, number: int) -> None:
    with pytest.raises(LoadError):
        open_and_load(write_gguf(metadata=METADATA | {f"llama.{key}": (UINT32, number)}))


def test_overlapping_tensors_are_refused(write_gguf: WriteGguf) -> None:
    whole = write_file()
    position, layout = whole.numbers[-1]  # the last tensor's offset
    content = whole.content[:position] + struct.pack(layout, 0) + whole.content[position + 8 :]
    with pytest.raises(LoadError, match="overlaps"):
        read_gguf(write_gguf(content))


def test_a_missing_tensor_is_named(write_gguf: WriteGguf) -> None:
    contents = tensors()
    del contents["blk.0.ffn_up.weight"]
    with pytest.raises(LoadError, match=r"mlp\.up_proj\.weight.* is missing"):
        open_and_load(write_gguf(contents=contents))


def test_a_block_count_below_that_of_the_tensors_is_refused(write_gguf: WriteGguf) -> None:
    second_layer = {name.replace("blk.0", "blk.1"): tensor for name, tensor in tensors().items() if name.startswith("blk")}
    with pytest.raises(LoadError, match="tensors of 2 layers"):
        open_and_load(write_gguf(contents=tensors() | second_layer))


def test_a_tensor_without_elements_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(LoadError, match="impossible shape"):
        read_gguf(write_gguf(contents=tensors() | {"empty": ((32, 0), 0, b"")}))


def test_arrays_nested_too_deep_are_refused(write_gguf: WriteGguf) -> None:
    nested = struct.pack("<IQ", 9, 1) * 1000
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x" + struct.pack("<I", 9) + nested
    with pytest.raises(LoadError, match="nested"):
        read_gguf(write_gguf(content))


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04" + b"\0" * 100], ids=["empty", "short", "zip"])
def test_other_files_are_refused(write_gguf: WriteGguf, content: bytes) -> None:
    with pytest.raises(LoadError, match="GGUF"):
        read_gguf(write_gguf(content))


def test_an_unknown_architecture_is_named(write_gguf: WriteGguf) -> None:
    with pytest.raises(LoadError, match="'mamba' is not supported"):
        open_and_load(write_gguf(metadata=METADATA | {"general.architecture": (STRING, "mamba")}))
