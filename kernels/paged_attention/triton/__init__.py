"""Attention over paged keys and values in Triton, for a GPU.

Two kernels: `decode` for tokens one by one, with the keys of a row shared out over programs, `extend` for blocks of queries.
Both are right for any ragged batch. Which one runs is chosen by shapes, for speed, and never waits for the device.
"""

from __future__ import annotations

from torch import Tensor

from kernels.device_limits import device_limits
from kernels.paged_attention.triton.decode import decode
from kernels.paged_attention.triton.extend import extend
from kernels.paged_attention.triton.splits import num_splits
from kernels.paged_attention.triton.tile import LOG2_E
from kernels.paged_attention.triton.tiling import decode_tiling, extend_tiling, invariant_tiling


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
    invariant: bool = False,
) -> Tensor:
    """See `kernels.paged_attention.paged_attention`. Tokens that no row owns get zeros.

    With no more tokens than rows, as in a step that only decodes, each token is on its own; else all rows go in blocks.
    """
    num_rows, group = kv_lengths.shape[0], q.shape[1] // key_pages.shape[1]
    if q.shape[0] == 0 or num_rows == 0:
        return q.new_zeros(q.shape)
    decodes, limits = q.shape[0] <= num_rows, device_limits(q.device)
    choose = invariant_tiling if invariant else decode_tiling if decodes else extend_tiling
    inputs = {
        "q": q,
        "keys": key_pages,
        "values": value_pages,
        "query_starts": query_starts,
        "kv_lengths": kv_lengths,
        "page_tables": page_tables,
        "alibi_slopes": alibi_slopes,
        "num_rows": num_rows,
        "num_splits": num_splits(page_tables.shape[1] * key_pages.shape[2]),
        "q_token_stride": q.stride(0),
        "q_head_stride": q.stride(1),
        "table_stride": page_tables.stride(0),
        "qk_scale": scale * (2.0 / softcap if softcap > 0.0 else 1.0) * LOG2_E.value,
        "cap": softcap * LOG2_E.value,
        "window": window,
        "GROUP": group,
        "NUM_KV_HEADS": key_pages.shape[1],
        "PAGE_SIZE": key_pages.shape[2],
        "HEAD_DIM": q.shape[2],
        "HAS_WINDOW": window > 0,
        "HAS_SOFTCAP": softcap > 0.0,
    }
    tiling = choose(q, group, limits)
    return decode(inputs, sinks, tiling, limits) if decodes else extend(inputs, sinks, tiling, is_split=invariant)
