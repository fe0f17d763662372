"""Latent attention over paged latents in Triton, for a GPU: `decode` for tokens one by one, `extend` for blocks of queries."""

from __future__ import annotations

from torch import Tensor

from kernels.device_limits import device_limits
from kernels.mla_attention.triton.decode import decode
from kernels.mla_attention.triton.extend import extend
from kernels.mla_attention.triton.tiling import decode_tiling, extend_tiling, invariant_tiling
from kernels.paged_attention.triton.splits import num_splits
from kernels.paged_attention.triton.tile import LOG2_E


def mla_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    latent_pages: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    page_tables: Tensor,
    scale: float,
    *,
    invariant: bool = False,
) -> Tensor:
    """See `kernels.mla_attention.mla_attention`. Tokens that no row owns get zeros.

    With no more tokens than rows each token is on its own; else all rows go in blocks. Nothing waits for the device.
    """
    (num_tokens, num_heads, rank), num_rows = q_nope.shape, kv_lengths.shape[0]
    if num_tokens == 0 or num_rows == 0:
        return q_nope.new_zeros(q_nope.shape)
    decodes, limits = num_tokens <= num_rows, device_limits(q_nope.device)
    choose = invariant_tiling if invariant else decode_tiling if decodes else extend_tiling
    tiling = choose(q_nope, q_rope, limits)
    inputs = {
        "q_nope": q_nope,
        "q_rope": q_rope,
        "pages": latent_pages,
        "query_starts": query_starts,
        "kv_lengths": kv_lengths,
        "page_tables": page_tables,
        "num_rows": num_rows,
        "num_splits": num_splits(page_tables.shape[1] * latent_pages.shape[1]),
        "nope_token_stride": q_nope.stride(0),
        "nope_head_stride": q_nope.stride(1),
        "rope_token_stride": q_rope.stride(0),
        "rope_head_stride": q_rope.stride(1),
        "table_stride": page_tables.stride(0),
        "qk_scale": scale * LOG2_E.value,
        "NUM_HEADS": num_heads,
        "HEADS_PER_BLOCK": min(num_heads, tiling.BLOCK_M),
        "PAGE_SIZE": latent_pages.shape[1],
        "RANK": rank,
        "ROPE_DIM": q_rope.shape[2],
    }
    return decode(inputs, tiling, limits) if decodes else extend(inputs, tiling, is_split=invariant)
