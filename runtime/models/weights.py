"""A model's weights on their way from a checkpoint into the network: converted, joined and packed one product at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from kernels.huge_pages import HugePages
from kernels.quantized_linear import PackedWeight
from runtime.layers.embedding import Embedding, PlainEmbedding
from runtime.layers.linear import Head, Linear, make_linear
from runtime.layers.moe import MixtureOfExperts
from runtime.layers.parallel_linear import FeedForward, GatheredHead, SummedLinear, SummedMixture
from runtime.layers.placement import ON_HOST, Placement
from runtime.layers.quantized import (
    QuantizedEmbedding,
    QuantizedLinear,
    Rounding,
    bits_of,
    can_stay_quantized,
    pack_rows,
    pack_values,
)
from runtime.loading.stored_tensor import StoredTensor
from runtime.models.shard import EXPERT_ROLES, SUMMED_ROLES, WHOLE, Cut, Shard
from runtime.models.spec import LinearSpec


class Weights:
    """The stored tensors of one model; a joined copy lives only until it is packed.

    With a `rounding` quantized weights keep their blocks, and meet activations rounded like this; without one they become
    numbers of `dtype`. With a `shard` only that part of them is taken, and the products meet those of the other ranks.
    `placement` says where they go.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredTensor],
        dtype: torch.dtype,
        progress: tqdm[None],
        *,
        rounding: Rounding | None = None,
        shard: Shard | None = None,
        placement: Placement = ON_HOST,
    ) -> None:
        self._stored = stored
        self._dtype = dtype
        self._progress = progress
        self._rounding = rounding
        self._shard = shard
        self._placement = placement
        self._memory = HugePages()

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """This rank's part of the tensor called `name` in `dtype`, by default the model's; it may be a view into the file."""
        self._progress.update()
        part = self._cut(name)(self._stored[name].load())
        return part.to(self._placement.device).to(dtype or self._dtype)  # a GPU converts faster than the host

    def norm(self, module: str) -> Tensor:
        """[width] float32 in memory: norms are small, and the kernels compute in float32."""
        return self.tensor(f"{module}.weight", torch.float32).clone()

    def linear(self, role: str, spec: LinearSpec) -> Linear:
        """A matrix product, its modules joined in one.

        role: its place in the layer, as `DecoderSpec.linears` calls it, those of `experts` with expert_ before it.
        """
        bias = self._joined(spec.modules, "bias") if spec.has_bias else None
        if self._shard is not None and role in SUMMED_ROLES:
            return SummedLinear(self._product(role, spec, None), bias, self._shard.group)
        if self._shard is not None and role in EXPERT_ROLES and self._shard.group.rank > 0:
            bias = None  # rank 0's is enough, when the mixture is summed
        return self._product(role, spec, bias)

    def mixture(self, mixture: MixtureOfExperts) -> FeedForward:
        """What becomes of a mixture made of this rank's products."""
        return mixture if self._shard is None else SummedMixture(mixture, self._shard.group)

    @property
    def placement(self) -> Placement:
        """Where they go."""
        return self._placement

    def stack(self, specs: Sequence[LinearSpec]) -> Tensor:
        """[products, out_features, in_features] the weights of products of one shape, which have no bias."""
        first = self._joined(specs[0].modules, "weight")
        stacked = first.new_empty((len(specs), *first.shape))
        stacked[0] = first
        for index, spec in enumerate(specs[1:], 1):
            stacked[index] = self._joined(spec.modules, "weight")
        return stacked

    def _product(self, role: str, spec: LinearSpec, bias: Tensor | None) -> Linear:
        packed = self._packed(spec.modules)
        if packed is not None and self._rounding is not None:
            bits, num_narrow = bits_of(self._rounding, role, spec.rows)
            return QuantizedLinear(packed, None if bias is None else bias.float(), self._dtype, bits, num_narrow)
        return self._linear(self._joined(spec.modules, "weight"), bias)

    def embedding_and_head(self, embedding: str, head: str | None) -> tuple[Embedding, Head]:
        """Both ends of the network from the modules of these names; without a head the embedding's weight is used twice.

        The logits of a plain head are rounded to the model's dtype, those of a quantized one are not.
        """
        packed = self._packed([embedding])
        if packed is not None:
            packed_head = packed if head is None else self._packed([head])
            if packed_head is not None and self._rounding is not None:
                head_linear = QuantizedLinear(packed_head, None, torch.float32, self._rounding.head)
                return QuantizedEmbedding(packed, self._dtype), self._gathered(head_linear)
        table = self.tensor(f"{embedding}.weight").clone(memory_format=torch.contiguous_format)
        head_weight = table if head is None else self.tensor(f"{head}.weight")
        return PlainEmbedding(table), self._gathered(self._linear(head_weight, None, is_head=True))

    def _linear(self, weight: Tensor, bias: Tensor | None, *, is_head: bool = False) -> Head:
        placement = self._placement
        return make_linear(weight, bias, is_head=is_head, is_plain=placement.is_plain, is_invariant=placement.is_invariant)

    def _gathered(self, head: Head) -> Head:
        return head if self._shard is None else GatheredHead(head, self._shard.vocab_widths, self._shard.group)

    def _cut(self, name: str) -> Cut:
        return WHOLE if self._shard is None else self._shard.cuts.get(name, WHOLE)

    def _joined(self, modules: Sequence[str], kind: str) -> Tensor:
        return torch.cat([self.tensor(f"{module}.{kind}") for module in modules])

    def _packed(self, modules: Sequence[str]) -> PackedWeight | None:
        """The weights of `modules`, joined, in blocks; None unless all of them are stored in blocks and may stay so."""
        names = [f"{module}.weight" for module in modules]
        inputs = self._cut(names[0]).columns or range(self._stored[names[0]].shape[1])
        if self._rounding is None or not can_stay_quantized(inputs):
            return None
        stored = [blocks for name in names if (blocks := self._stored[name].blocks()) is not None]
        if len(stored) < len(names):
            return None
        if len({blocks.format for blocks in stored}) == 1:
            rows = [self._cut(name).of_rows(blocks.rows) for name, blocks in zip(names, stored, strict=True)]
            packed = pack_rows(torch.cat(rows), stored[0].format, inputs)
            if packed is not None:
                self._progress.update(len(names))
                return packed.placed(self._memory)
        return pack_values(torch.cat([self.tensor(name, torch.float32) for name in names])).placed(self._memory)
