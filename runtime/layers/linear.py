"""Matrix products with a model's weights. The format of a weight is chosen once, when it is loaded.

The invariant: a row of the result does not depend, bit for bit, on the other rows of the batch. Our kernel keeps it. Where
there is no compiler for it oneDNN serves: it keeps it for two rows and more, in bfloat16 and float32, at any number of threads;
for a single row with more than 1024 inputs it adds in another order, so a single row is computed as two. torch's own product
does not keep it in float32 and is the last resort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels import native
from kernels.argmax import argmax
from kernels.float_linear import PackedPanels, float_linear, float_linear_argmax, pack_panels
from kernels.invariant_linear import invariant_linear
from runtime.layers.precision import has_onednn


class Linear(Protocol):
    """x [tokens, in_features] → [tokens, out_features], both of the model's dtype; tokens ≥ 1."""

    @property
    def size_bytes(self) -> int:
        """Memory of the weight."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Head(Linear, Protocol):
    """The product that gives logits."""

    def argmax(self, x: Tensor) -> Tensor:
        """[tokens] int64, the first index of each row's largest output; -1 for a row with NaN, +inf or no number."""
        ...


@dataclass(frozen=True, slots=True)
class PanelLinear:
    """A weight in the layout of our own kernel: half the time of oneDNN's for one row, equal to it for many."""

    panels: PackedPanels
    bias: Tensor | None  # [out_features] float32
    out_dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return self.panels.values.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return float_linear(x, self.panels, self.bias, out_dtype=self.out_dtype)

    def argmax(self, x: Tensor) -> Tensor:
        return float_linear_argmax(x, self.panels, self.bias)


@dataclass(frozen=True, slots=True)
class BlockedLinear:
    """A weight in oneDNN's blocked layout: half the time of torch's own for a few rows, the same memory."""

    packed: Tensor  # opaque
    bias: Tensor | None  # [out_features]
    size_bytes: int

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return self._product(x.expand(2, -1))[:1]
        return self._product(x)

    def argmax(self, x: Tensor) -> Tensor:
        return argmax(self(x))

    def _product(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """A weight as torch keeps it."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None  # [out_features]

    @property
    def size_bytes(self) -> int:
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def argmax(self, x: Tensor) -> Tensor:
        return argmax(self(x))


@dataclass(frozen=True, slots=True)
class InvariantLinear:
    """A weight on a GPU with a product that keeps the invariant there, which cuBLAS does not."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None  # [out_features]

    @property
    def size_bytes(self) -> int:
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return invariant_linear(x, self.weight, self.bias)

    def argmax(self, x: Tensor) -> Tensor:
        return argmax(self(x))


def make_linear(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    is_head: bool = False,
    is_plain: bool = False,
    is_invariant: bool = False,
) -> Head:
    """The fastest product for `weight` [out_features, in_features] here; a packed one keeps no reference to `weight`.

    bias: [out_features] of the same dtype. is_head: who reads the result wants float32, so our kernel stores that at once.
    is_plain: the weight stays as it is, which is the form for a GPU; is_invariant: and its product keeps the invariant there.
    """
    if is_plain:
        return InvariantLinear(weight, bias) if is_invariant else PlainLinear(weight, bias)
    if native.function("float_linear") is not None and weight.dtype in native.FLOATS:
        out_dtype = torch.float32 if is_head else weight.dtype
        return PanelLinear(pack_panels(weight), None if bias is None else bias.float(), out_dtype)
    if not has_onednn():
        return PlainLinear(weight, bias)
    return BlockedLinear(torch.ops.mkldnn._reorder_linear_weight(weight, None), bias, weight.nbytes)
