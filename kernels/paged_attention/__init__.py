"""Causal attention of a ragged batch over paged keys and values: decode rows and prefill rows in one call."""

from __future__ import annotations

from torch import Tensor

from kernels.paged_attention import reference


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
    """Softmax attention of every token over the keys of its row up to itself. Returns a new [tokens, heads, head_dim].

    q: [tokens, heads, head_dim] bfloat16 or float32, contiguous last dimension; heads is a multiple of kv_heads.
    key_pages, value_pages: [pages, kv_heads, page_size, head_dim], contiguous.
    query_starts: [rows + 1] int32, row r owns tokens query_starts[r] to query_starts[r + 1].
    kv_lengths: [rows] int32, keys of the row, this step's tokens included: a row's queries are its last tokens.
    page_tables: [rows, max_pages] int32, the pages of each row in order; entries past its length are not read.
    scale multiplies the scores. softcap c > 0 then maps them to c * tanh(score / c). alibi_slopes: [heads] float32, times the
    distance to the key, subtracted. window w > 0: a token sees itself and the w - 1 tokens before it.
    sinks: [heads] float32, one logit per head that joins the softmax's denominator.
    """
    return reference.paged_attention(
        q,
        key_pages,
        value_pages,
        query_starts,
        kv_lengths,
        page_tables,
        scale,
        window=window,
        softcap=softcap,
        sinks=sinks,
        alibi_slopes=alibi_slopes,
    )
