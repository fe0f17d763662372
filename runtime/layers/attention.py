"""Grouped-query attention of one layer over the paged cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.paged_attention import paged_attention
from kernels.rms_norm import rms_norm
from kernels.rope import rope_and_write
from runtime.layers.forward import ForwardBatch, Queries
from runtime.layers.linear import Linear
from runtime.layers.placement import AttentionKernel


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
    norms_all_heads: bool = False
    """The norms are applied to all heads as one, and are [heads * head_dim] and [kv_heads * head_dim]."""
    clip: float = 0.0
    """The largest that an element of q, k and v may be when they are rotated or written; 0 is no limit."""
    kernel: AttentionKernel = paged_attention

    def __call__(self, hidden: Tensor, batch: ForwardBatch, keys: Tensor, values: Tensor) -> Tensor:
        """hidden: [tokens, hidden_size] → [tokens, hidden_size]. keys, values: this layer's pages, written to."""
        return self.attend(self.project(hidden, batch, keys, values), batch.queries, keys, values)

    def project(self, hidden: Tensor, batch: ForwardBatch, keys: Tensor, values: Tensor) -> Tensor:
        """Writes the batch's keys and values, and returns its queries [tokens, heads, head_dim], normed and rotated."""
        q, k, v = self._project(hidden)
        norms_heads = not self.norms_all_heads
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
            q_norm=self.q_norm if norms_heads else None,
            k_norm=self.k_norm if norms_heads else None,
            eps=self.norm_eps,
        )

    def attend(self, q: Tensor, queries: Queries, keys: Tensor, values: Tensor) -> Tensor:
        """q: [tokens, heads, head_dim], those of `queries` → [tokens, hidden_size]."""
        attended = self.kernel(
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
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]: views of one buffer, unless they are changed."""
        heads = self.qkv(hidden).view(hidden.shape[0], -1, self.head_dim)  # [tokens, heads + 2 * kv_heads, head_dim]
        first_value = self.num_heads + self.num_kv_heads
        q, k, v = heads[:, : self.num_heads], heads[:, self.num_heads : first_value], heads[:, first_value:]
        if self.norms_all_heads:
            q, k = self._normed(q, self.q_norm), self._normed(k, self.k_norm)
        if self.clip:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        return q, k, v

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """x: [tokens, heads, head_dim], normed as one vector per token."""
        return x if weight is None else rms_norm(x.flatten(1), weight, self.norm_eps).view(x.shape)
