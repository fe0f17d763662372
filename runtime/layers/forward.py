"""The batch that a model computes in one step and the paged cache that it uses: the executor's contract with models.

A batch is ragged: each row is one sequence with one or more new tokens, decode and prefill alike. The executor builds it,
the model never changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Queries:
    """Tokens that look at keys: those of row r are starts[r]:starts[r + 1], the last ones of its kv_lengths[r] keys."""

    starts: Tensor  # [rows + 1] int32
    kv_lengths: Tensor  # [rows] int32
    page_tables: Tensor  # [rows, max_pages] int32


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The new tokens of every row, in order, and where their keys and values go."""

    token_ids: Tensor  # [tokens] int64
    positions: Tensor  # [tokens] int32
    query_starts: Tensor  # [rows + 1] int32, tokens of row r are query_starts[r]:query_starts[r + 1]
    kv_lengths: Tensor  # [rows] int32, keys of the row including this step's tokens
    page_tables: Tensor  # [rows, max_pages] int32
    write_slots: Tensor  # [tokens] int32, page * page_size + offset where the token's key and value go
    logit_rows: Tensor  # [wanted] int64, indices into tokens whose outputs are wanted; one may be wanted twice

    @property
    def queries(self) -> Queries:
        """Every token."""
        return Queries(self.query_starts, self.kv_lengths, self.page_tables)

    def wanted_queries(self) -> Queries:
        """The tokens that `logit_rows` names, in its order. Each is a row of its own, unless they are simply all tokens."""
        num_tokens, num_wanted = self.token_ids.shape[0], self.logit_rows.shape[0]
        if num_wanted == num_tokens and torch.equal(self.logit_rows, torch.arange(num_tokens)):
            return self.queries
        owners = torch.searchsorted(self.query_starts, self.logit_rows, right=True) - 1  # [wanted]
        num_later = self.query_starts[owners + 1] - 1 - self.logit_rows  # [wanted] tokens of the row behind it
        return Queries(
            starts=torch.arange(num_wanted + 1, dtype=torch.int32),
            kv_lengths=(self.kv_lengths[owners] - num_later).int(),
            page_tables=self.page_tables[owners],
        )


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

    def allocate(self, num_pages: int, page_size: int, device: torch.device | str = "cpu") -> KVCache:
        """An empty cache of `num_pages` pages of `page_size` tokens. Raises RuntimeError when memory is short."""
        shape = (num_pages, self.num_kv_heads, page_size, self.head_dim)
        return KVCache(
            keys=[torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(self.num_layers)],
            values=[torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(self.num_layers)],
        )
