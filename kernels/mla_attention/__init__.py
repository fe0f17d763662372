"""Multi-head latent attention over a paged cache of latents: all heads share one short key, which is also their value.

The weights that make each head's keys and values from the latent are applied to the query and to the output instead, so that
the cache holds kv_lora_rank + rope_dim numbers a token. Source: DeepSeek-V2 (2024), section 2.1 and appendix C.
"""

from __future__ import annotations

from torch import Tensor

from kernels.mla_attention import reference


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
    """Softmax attention of every token over the latents of its row up to itself. Returns a new [tokens, heads, kv_lora_rank].

    The score of a token and a key is scale * (q_nope · latent + q_rope · rotated key), the result the weighted sum of latents.
    CUDA tensors go to Triton, CPU tensors to the reference. Decode rows and prefill rows may be mixed in one call; bits and
    `invariant` are as in `kernels.paged_attention.paged_attention`.

    q_nope: [tokens, heads, kv_lora_rank], multiplied by the key's up-projection; q_rope: [tokens, heads, rope_dim], rotated.
    Both bfloat16, float16 or float32 with contiguous last dimension.
    latent_pages: [pages, page_size, kv_lora_rank + rope_dim], contiguous: the normed latent, then the rotated key.
    query_starts: [rows + 1] int32, row r owns tokens query_starts[r] to query_starts[r + 1].
    kv_lengths: [rows] int32, latents of the row, this step's tokens included. page_tables: [rows, max_pages] int32.
    """
    inputs = (q_nope, q_rope, latent_pages, query_starts, kv_lengths, page_tables)
    if not q_nope.is_cuda:
        return reference.mla_attention(*inputs, scale)
    from kernels.mla_attention import triton

    return triton.mla_attention(*inputs, scale, invariant=invariant)
