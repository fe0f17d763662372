"""The batch that a model computes in one step and the paged cache that it uses: the executor's contract with models.

A batch is ragged: each row is one sequence with one or more new tokens, decode and prefill alike. The executor builds it,
the model never changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The new tokens of every row, in order, and where their keys and values go."""

    token_ids: Tensor  # [tokens] int64
    positions: Tensor  # [tokens] int32
    query_starts: Tensor  # [rows + 1] int32, tokens of row r are query_starts[r]:query_starts[r + 1]
    kv_lengths: Tensor  # [rows] int32, keys of the row including this step's tokens
    page_tables: Tensor  # [rows, max_pages] int32
    write_slots: Tensor  # [tokens] int32, page * page_size + offset where the token's key and value go
    logit_rows: Tensor  # [sampled] int64, indices into tokens whose logits are wanted


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of every layer, in pages that the page tables name."""

    keys: list[Tensor]  # per layer [pages, kv_heads, page_size, head_dim]
    values: list[Tensor]


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a model needs to remember of a token."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, num_pages: int, page_size: int) -> KVCache:
        """An empty cache of `num_pages` pages of `page_size` tokens. Raises RuntimeError when memory is short."""
        shape = (num_pages, self.num_kv_heads, page_size, self.head_dim)
        return KVCache(
            keys=[torch.zeros(shape, dtype=self.dtype) for _ in range(self.num_layers)],
            values=[torch.zeros(shape, dtype=self.dtype) for _ in range(self.num_layers)],
        )
