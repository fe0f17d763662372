"""A model's weights on their way from a checkpoint into the network: converted, joined and packed one product at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from runtime.layers.linear import Linear, make_linear
from runtime.loading.stored_tensor import StoredTensor
from runtime.models.spec import LinearSpec


class Weights:
    """The stored tensors of one model; a joined copy lives only until it is packed."""

    def __init__(self, stored: Mapping[str, StoredTensor], dtype: torch.dtype, progress: tqdm[None]) -> None:
        self._stored = stored
        self._dtype = dtype
        self._progress = progress

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor called `name` in `dtype`, by default the model's; it may be a view into the file."""
        self._progress.update()
        return self._stored[name].load().to(dtype or self._dtype)

    def embedding(self, module: str) -> Tensor:
        """[vocab, hidden], in memory."""
        return self.tensor(f"{module}.weight").clone(memory_format=torch.contiguous_format)

    def norm(self, module: str) -> Tensor:
        """[width] float32 in memory: norms are small, and the kernels compute in float32."""
        return self.tensor(f"{module}.weight", torch.float32).clone()

    def linear(self, spec: LinearSpec) -> Linear:
        """A matrix product, its modules joined in one."""
        weight = self._joined(spec, "weight")
        return make_linear(weight, self._joined(spec, "bias") if spec.has_bias else None)

    def _joined(self, spec: LinearSpec, kind: str) -> Tensor:
        parts = [self.tensor(f"{module}.{kind}") for module in spec.modules]
        return torch.cat(parts)
