"""Attention over paged keys and values in torch: the definition that the other implementations are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_BLOCK_TOKENS = 256  # bounds the score matrix of a long prompt


def gather(pages: Tensor, page_table: Tensor, num_keys: int) -> Tensor:
    """The first `num_keys` entries of one row as float32 [kv_heads, keys, head_dim]."""
    page_size = pages.shape[2]
    num_pages = -(-num_keys // page_size)
    taken = pages[page_table[:num_pages].long()].transpose(0, 1)  # [kv_heads, num_pages, page_size, head_dim]
    return taken.flatten(1, 2)[:, :num_keys].float()


def logits(
    q: Tensor, keys: Tensor, distance: Tensor, scale: float, window: int, softcap: float, alibi_slopes: Tensor | None
) -> Tensor:
    """Masked scores [heads, queries, keys] of q [heads, queries, head_dim] against keys [heads, keys, head_dim]."""
    scores = torch.matmul(q, keys.transpose(1, 2)) * scale
    if softcap > 0.0:
        scores = torch.tanh(scores / softcap) * softcap
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.float()[:, None, None] * distance
    hidden = distance < 0
    if window > 0:
        hidden = hidden | (distance >= window)
    return scores.masked_fill(hidden, float("-inf"))


def softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the keys; a sink is one more logit per head that takes weight and gives no value."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sink = sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.softmax(torch.cat((scores, sink), dim=-1), dim=-1)[..., :-1]


def attend_row(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    alibi_slopes: Tensor | None,
) -> Tensor:
    """One row: q [queries, heads, head_dim] are the last tokens of keys, values [kv_heads, keys, head_dim]."""
    group = q.shape[1] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, dim=0), values.repeat_interleave(group, dim=0)  # [heads, keys, head_dim]
    first = keys.shape[1] - q.shape[0]
    parts = []
    for start in range(0, q.shape[0], QUERY_BLOCK_TOKENS):
        block = q[start : start + QUERY_BLOCK_TOKENS].float().transpose(0, 1)  # [heads, queries, head_dim]
        num_keys = first + start + block.shape[1]
        at = torch.arange(first + start, num_keys, device=q.device)[:, None]
        distance = (
            at - torch.arange(num_keys, device=q.device)[None, :]
        )  # [queries, keys], negative where a key is in the future
        scores = logits(block, keys[:, :num_keys], distance, scale, window, softcap, alibi_slopes)
        parts.append(torch.matmul(softmax(scores, sinks), values[:, :num_keys]).transpose(0, 1))
    return torch.cat(parts)  # [queries, heads, head_dim]


def paged_attention(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    page_tables: Tensor,
    scale: float,
    *,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """See `kernels.paged_attention.paged_attention`."""
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    starts, lengths = query_starts.tolist(), kv_lengths.tolist()
    for row, num_keys in enumerate(lengths):
        queries = slice(starts[row], starts[row + 1])
        if queries.start == queries.stop:
            continue
        keys, values = gather(key_pages, page_tables[row], num_keys), gather(value_pages, page_tables[row], num_keys)
        out[queries] = attend_row(q[queries], keys, values, scale, window, softcap, sinks, alibi_slopes).to(q.dtype)
    return out
