"""Token embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kernels.gather_rows import gather_rows


class Embedding(Protocol):
    """token_ids [tokens] → [tokens, hidden] of the model's dtype, in new memory."""

    def __call__(self, token_ids: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class PlainEmbedding:
    """A table of plain numbers."""

    table: Tensor  # [vocab, hidden]

    def __call__(self, token_ids: Tensor) -> Tensor:
        return gather_rows(self.table, token_ids)
