"""Grouped-query attention of one layer over the paged cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.paged_attention import paged_attention
from kernels.rope import rope_and_write
from runtime.layers.forward import ForwardBatch, Queries
from runtime.layers.linear import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Weights and numbers of one attention layer. It writes this step's keys and values before it attends."""

    qkv: Linear
    output: Linear
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int
    """Tokens that a token sees, itself included; 0 is all."""
    cos_sin: Tensor  # [positions, rotary_dim] float32
    interleaved: bool
    q_norm: Tensor | None  # [head_dim], applied to each head before it is rotated
    k_norm: Tensor | None  # [head_dim]
    norm_eps: float

    def __call__(self, hidden: Tensor, batch: ForwardBatch, keys: Tensor, values: Tensor) -> Tensor:
        """hidden: [tokens, hidden_size] → [tokens, hidden_size]. keys, values: this layer's pages, written to."""
        return self.attend(self.project(hidden, batch, keys, values), batch.queries, keys, values)

    def project(self, hidden: Tensor, batch: ForwardBatch, keys: Tensor, values: Tensor) -> Tensor:
        """Writes the batch's keys and values, and returns its queries [tokens, heads, head_dim], normed and rotated."""
        q, k, v = self._project(hidden)
        return rope_and_write(
            q,
            k,
            v,
            self.cos_sin,
            batch.positions,
            keys,
            values,
            batch.write_slots,
            interleaved=self.interleaved,
            q_norm=self.q_norm,
            k_norm=self.k_norm,
            eps=self.norm_eps,
        )

    def attend(self, q: Tensor, queries: Queries, keys: Tensor, values: Tensor) -> Tensor:
        """q: [tokens, heads, head_dim], those of `queries` → [tokens, hidden_size]."""
        attended = paged_attention(
            q,
            keys,
            values,
            queries.starts,
            queries.kv_lengths,
            queries.page_tables,
            self.scale,
            window=self.window,
        )  # [tokens, heads, head_dim]
        return self.output(attended.flatten(1))

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]: views of one buffer."""
        heads = self.qkv(hidden).view(hidden.shape[0], -1, self.head_dim)  # [tokens, heads + 2 * kv_heads, head_dim]
        first_value = self.num_heads + self.num_kv_heads
        return heads[:, : self.num_heads], heads[:, self.num_heads : first_value], heads[:, first_value:]
