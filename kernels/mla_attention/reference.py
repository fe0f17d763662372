"""Multi-head latent attention in torch: the definition that the other implementation is checked against."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_BLOCK_TOKENS = 256  # bounds the score matrix of a long prompt


def gather(pages: Tensor, page_table: Tensor, num_keys: int) -> Tensor:
    """The first `num_keys` entries of one row as float32 [keys, kv_lora_rank + rope_dim]."""
    num_pages = -(-num_keys // pages.shape[1])
    return pages[page_table[:num_pages].long()].flatten(0, 1)[:num_keys].float()


def attend_row(q: Tensor, latents: Tensor, rank: int, scale: float) -> Tensor:
    """One row: q [queries, heads, kv_lora_rank + rope_dim] are the last tokens of latents [keys, same]."""
    first = latents.shape[0] - q.shape[0]
    parts = []
    for start in range(0, q.shape[0], QUERY_BLOCK_TOKENS):
        block = q[start : start + QUERY_BLOCK_TOKENS].float()
        num_keys = first + start + block.shape[0]
        at = torch.arange(first + start, num_keys, device=q.device)[:, None, None]
        scores = torch.matmul(block, latents[:num_keys].T) * scale  # [queries, heads, keys]
        future = torch.arange(num_keys, device=q.device) > at
        weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        parts.append(torch.matmul(weights, latents[:num_keys, :rank]))
    return torch.cat(parts)  # [queries, heads, kv_lora_rank]


def mla_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    latent_pages: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    page_tables: Tensor,
    scale: float,
) -> Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    out = torch.zeros(q_nope.shape, dtype=q_nope.dtype, device=q_nope.device)
    q, starts = torch.cat((q_nope, q_rope), dim=-1), query_starts.tolist()
    for row, num_keys in enumerate(kv_lengths.tolist()):
        queries = slice(starts[row], starts[row + 1])
        if queries.start < queries.stop and num_keys:
            latents = gather(latent_pages, page_tables[row], num_keys)
            out[queries] = attend_row(q[queries], latents, q_nope.shape[2], scale).to(q.dtype)
    return out
