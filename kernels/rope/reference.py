"""Rotary embedding and key/value write in torch: the definition that the other implementations are checked against.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.rms_norm.reference import rms_norm


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotates the first `2 * cos.shape[-1]` dimensions of x [tokens, heads, head_dim]; cos, sin: [tokens, rotary_dim / 2]."""
    half = cos.shape[-1]
    wide = x.float()
    turned, rest = wide[..., : 2 * half], wide[..., 2 * half :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :half], turned[..., half:]
    cos, sin = cos[:, None, :], sin[:, None, :]  # [tokens, 1, rotary_dim / 2]
    pair = (first * cos - second * sin, second * cos + first * sin)
    rotated = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return torch.cat((rotated, rest), dim=-1).to(x.dtype)


def write(values: Tensor, pages: Tensor, write_slots: Tensor) -> None:
    """Writes values [tokens, kv_heads, head_dim] to pages [pages, kv_heads, page_size, head_dim], negative slots not."""
    kept = write_slots >= 0
    slots = write_slots[kept].long()
    page_size = pages.shape[2]
    pages[slots // page_size, :, slots % page_size] = values[kept].to(pages.dtype)


def rope_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    write_slots: Tensor,
    *,
    interleaved: bool = False,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """See `kernels.rope.rope_and_write`. Changes q in place and returns it."""
    if q_norm is not None and k_norm is not None:
        q.copy_(rms_norm(q, q_norm, eps))
        k = rms_norm(k, k_norm, eps)
    cos, sin = cos_sin[positions.long()].chunk(2, dim=-1)  # [tokens, rotary_dim / 2] each
    q.copy_(rotate(q, cos, sin, interleaved))
    write(rotate(k, cos, sin, interleaved), key_pages, write_slots)
    write(v, value_pages, write_slots)
    return q
