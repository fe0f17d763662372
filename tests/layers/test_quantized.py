"""Quantized weights: the values are those of the file, whatever the format, and rows do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence

import gguf
import numpy as np
import pytest
import torch
from tqdm import tqdm

from kernels.quantized_linear import unpack_rows
from runtime.layers.embedding import PlainEmbedding
from runtime.layers.linear import Linear
from runtime.layers.quantized import ROUNDINGS, QuantizedEmbedding, QuantizedLinear, can_stay_quantized
from runtime.loading.gguf import GgufTensor
from runtime.models.spec import LinearSpec
from runtime.models.weights import Weights

HIDDEN = 64

HAS_KERNELS = can_stay_quantized(range(HIDDEN))
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="no C compiler: weights are dequantized at load")


def stored(name: str, block_type: str, num_rows: int, *, seed: int) -> GgufTensor:
    """A random tensor [num_rows, HIDDEN] in a GGUF file's blocks."""
    values = np.random.default_rng(seed).normal(size=(num_rows, HIDDEN)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[block_type]
    return GgufTensor(name, (num_rows, HIDDEN), kind, gguf.quantize(values, kind).view(np.uint8).reshape(-1))


def weights(tensors: Sequence[GgufTensor], *, rounding: str | None = "8") -> Weights:
    chosen = None if rounding is None else ROUNDINGS[rounding]
    return Weights({t.name: t for t in tensors}, torch.float32, tqdm(disable=True), rounding=chosen)


def joined(tensors: Sequence[GgufTensor], *, rounding: str | None = "8", role: str = "down") -> Linear:
    names = tuple(tensor.name.removesuffix(".weight") for tensor in tensors)
    return weights(tensors, rounding=rounding).linear(
        role, LinearSpec(names, tuple(t.shape[0] for t in tensors), HIDDEN, has_bias=False)
    )


@needs_kernels
@pytest.mark.parametrize("block_type", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_kept_without_loss(block_type: str) -> None:
    parts = [stored("a.weight", block_type, 24, seed=1), stored("b.weight", block_type, 16, seed=2)]
    linear = joined(parts)
    assert isinstance(linear, QuantizedLinear)
    expected = torch.cat([part.load() for part in parts])
    torch.testing.assert_close(unpack_rows(linear.packed, torch.arange(40)), expected, rtol=1e-6, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("block_types", [("Q5_0", "Q5_0"), ("Q4_1", "Q8_0")], ids=str)
def test_other_formats_are_rounded_to_eight_bits(block_types: tuple[str, str]) -> None:
    parts = [stored("a.weight", block_types[0], 24, seed=1), stored("b.weight", block_types[1], 16, seed=2)]
    linear = joined(parts)
    assert isinstance(linear, QuantizedLinear)
    assert linear.packed.bits == 8
    expected = torch.cat([part.load() for part in parts])
    torch.testing.assert_close(unpack_rows(linear.packed, torch.arange(40)), expected, rtol=0, atol=0.03)


@needs_kernels
@pytest.mark.parametrize(("rounding", "tolerance"), [("8", 2e-2), ("16", 1e-4)])
def test_a_product_is_near_the_exact_one_and_no_row_depends_on_the_others(rounding: str, tolerance: float) -> None:
    part = stored("a.weight", "Q4_1", 48, seed=3)
    linear = joined([part], rounding=rounding)
    x = torch.randn(33, HIDDEN, generator=torch.Generator().manual_seed(4))
    exact = x @ part.load().T
    assert (linear(x) - exact).abs().max() < tolerance * exact.abs().max()
    for row in (0, 7, 32):
        assert torch.equal(linear(x[row : row + 1])[0], linear(x)[row])


@needs_kernels
@pytest.mark.parametrize(("role", "bits"), [("qkv", (16, 48)), ("output", (8, 0)), ("gate_up", (8, 0)), ("down", (8, 0))])
def test_mixed_rounding_is_finer_for_values(role: str, bits: tuple[int, int]) -> None:
    parts = [stored(f"{name}.weight", "Q4_1", num_rows, seed=6) for name, num_rows in (("q", 32), ("k", 16), ("v", 16))]
    linear = joined(parts, rounding="mixed", role=role)
    assert isinstance(linear, QuantizedLinear)
    assert (linear.activation_bits, linear.num_narrow) == bits


@needs_kernels
def test_values_that_do_not_start_at_a_tile_take_queries_and_keys_along() -> None:
    parts = [stored(f"{name}.weight", "Q4_1", 4, seed=6) for name in "qkv"]
    linear = joined(parts, rounding="mixed", role="qkv")
    assert isinstance(linear, QuantizedLinear)
    assert (linear.activation_bits, linear.num_narrow) == (16, 0)


@needs_kernels
def test_a_tied_head_shares_the_memory_of_the_embedding() -> None:
    table = stored("embedding.weight", "Q8_0", 32, seed=5)
    embedding, head = weights([table]).embedding_and_head("embedding", None)
    assert isinstance(embedding, QuantizedEmbedding)
    assert isinstance(head, QuantizedLinear)
    assert embedding.packed is head.packed
    assert head.out_dtype is torch.float32
    ids = torch.tensor([31, 0, 7, 7])
    torch.testing.assert_close(embedding(ids), table.load()[ids], rtol=1e-6, atol=1e-6)


def test_a_dtype_that_was_asked_for_makes_plain_numbers() -> None:
    part = stored("a.weight", "Q4_1", 48, seed=3)
    x = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(joined([part], rounding=None)(x), x @ part.load().T)
    embedding, _ = weights([part], rounding=None).embedding_and_head("a", None)
    assert isinstance(embedding, PlainEmbedding)
