"""Products of which each rank has a part: where the parts are brought together.

Products with a part of the rows need nothing (each rank goes on with its own columns), except the head's, whose columns are
gathered. Those with a part of the inputs give sums that are not complete, which are added up. Megatron-LM: Shoeybi et al.
2019, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kernels.argmax import argmax
from runtime.layers.linear import Linear
from runtime.layers.rank_group import RankGroup


@dataclass(frozen=True, slots=True)
class SummedLinear:
    """x [tokens, this rank's in_features] → [tokens, out_features], the same on every rank."""

    product: Linear
    """Without a bias."""
    bias: Tensor | None  # [out_features] of the model's dtype, added once
    group: RankGroup

    @property
    def size_bytes(self) -> int:
        return self.product.size_bytes

    def __call__(self, x: Tensor) -> Tensor:
        total = self.product(x)
        self.group.all_reduce_sum(total)
        return total if self.bias is None else total.add_(self.bias)


@dataclass(frozen=True, slots=True)
class GatheredHead:
    """x [rows, hidden] → [rows, vocab] on rank 0, and [rows, this rank's part of it], which nobody needs, elsewhere."""

    product: Linear
    widths: tuple[int, ...]
    """Columns of each rank."""
    group: RankGroup

    @property
    def size_bytes(self) -> int:
        return self.product.size_bytes

    def __call__(self, x: Tensor) -> Tensor:
        return self.group.gather_columns(self.product(x), self.widths)

    def argmax(self, x: Tensor) -> Tensor:
        """See `Head.argmax`; elsewhere than on rank 0 of its own part."""
        return argmax(self(x).float())


class FeedForward(Protocol):
    """hidden [tokens, hidden_size] → [tokens, hidden_size]"""

    @property
    def products(self) -> list[Linear]: ...

    def __call__(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class SummedMixture:
    """A mixture of which each rank has a part of every expert, the router whole: the ranks choose the same experts.

    Its products are not summed one by one, since no two steps use the same ones, but what comes of all.
    """

    mixture: FeedForward
    group: RankGroup

    @property
    def products(self) -> list[Linear]:
        return self.mixture.products

    def __call__(self, hidden: Tensor) -> Tensor:
        total = self.mixture(hidden)
        self.group.all_reduce_sum(total)
        return total


def own_product(linear: Linear) -> Linear:
    """What this rank computes of `linear` by itself."""
    return linear.product if isinstance(linear, (SummedLinear, GatheredHead)) else linear
