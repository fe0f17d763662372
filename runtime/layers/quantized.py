"""Weights that stay quantized in memory: the products and the embedding of a GGUF model, computed from its own blocks.

Activations are rounded to 16 or 8 bits per block for the product; the products are exact integers added in a fixed order, so a
row of the result does not depend on the other rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import native
from kernels.quantized_linear import (
    GGUF_TYPES,
    PackedWeight,
    pack,
    packed_rows,
    quantize,
    quantized_linear,
    quantized_linear_argmax,
)
from kernels.quantized_linear.packing import BLOCK, TILE


class Rounding(NamedTuple):
    """To how many bits, 8 or 16, activations are rounded for each kind of product."""

    query_key: int
    value: int
    output: int
    mlp: int
    head: int


ROUNDINGS = {
    "8": Rounding(8, 8, 8, 8, 8),
    "16": Rounding(16, 16, 16, 16, 16),
    # Measured on the embedded model: 8 bits for the values change its logits as much as 8 bits for gate and up, which are half
    # of all products while the values are a thirtieth.
    "mixed": Rounding(8, 16, 8, 8, 8),
}
"""By the names that `--activation-bits` knows."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """x [tokens, in_features] → [tokens, out_features] of `out_dtype`."""

    packed: PackedWeight
    bias: Tensor | None  # [out_features] float32
    out_dtype: torch.dtype
    activation_bits: int
    num_narrow: int = 0
    """With 16 bits, the first so many outputs, a multiple of 16, that take 8 all the same."""

    @property
    def size_bytes(self) -> int:
        return self.packed.size_bytes

    def __call__(self, x: Tensor) -> Tensor:
        return quantized_linear(
            x, self.packed, self.bias, self.out_dtype, activation_bits=self.activation_bits, num_narrow=self.num_narrow
        )

    def argmax(self, x: Tensor) -> Tensor:
        """Of a head: its outputs are float32 and all meet the same activations."""
        return quantized_linear_argmax(x, self.packed, self.bias, activation_bits=self.activation_bits)


@dataclass(frozen=True, slots=True)
class QuantizedEmbedding:
    """token_ids [tokens] → [tokens, hidden] of `dtype`, read from the same memory as a tied head."""

    packed: PackedWeight
    dtype: torch.dtype

    def __call__(self, token_ids: Tensor) -> Tensor:
        return packed_rows(self.packed, token_ids, self.dtype)


def bits_of(rounding: Rounding, role: str, rows: Sequence[int]) -> tuple[int, int]:
    """`activation_bits` and `num_narrow` of a product.

    role: as in `DecoderSpec.linears`. rows: the outputs of each of its parts; for qkv, values are the last.
    """
    if role != "qkv":
        return rounding.output if role == "output" else rounding.mlp, 0
    num_query_key = sum(rows[:-1])
    if (rounding.query_key, rounding.value) == (8, 16) and num_query_key % TILE == 0:
        return 16, num_query_key
    return max(rounding.query_key, rounding.value), 0


def can_stay_quantized(inputs: range) -> bool:
    """Whether a weight may keep its blocks if only these inputs are taken of it: they must be whole blocks.

    Without compiled kernels it is better off as plain numbers.
    """
    return inputs.start % BLOCK == len(inputs) % BLOCK == 0 and native.function("quantized_linear") is not None


def pack_rows(rows: Tensor, block_format: str, inputs: range) -> PackedWeight | None:
    """Blocks as GGUF stores them, without loss; None for a format that the kernel does not read.

    rows: [num_outputs, bytes per row] uint8. inputs: those that are taken, in whole blocks.
    """
    if block_format not in GGUF_TYPES:
        return None
    block_bytes, _ = GGUF_TYPES[block_format]
    taken = rows[:, inputs.start // BLOCK * block_bytes : inputs.stop // BLOCK * block_bytes]
    return pack(taken, block_format, rows.shape[0], len(inputs))


def pack_values(weight: Tensor) -> PackedWeight:
    """Other formats (GGUF's K-quants) rounded to 8 bits per block of 32, which is finer than what they were.

    weight: [num_outputs, num_inputs], dequantized.
    """
    return quantize(weight, bits=8)
