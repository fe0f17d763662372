"""Log probabilities off the logits, on the device: those of given tokens and those of the likeliest ones."""

from __future__ import annotations

from torch import Tensor

from kernels.top_logprobs import reference
from kernels.top_logprobs.reference import LOWEST, MAX_TOP, TopLogprobs

__all__ = ["LOWEST", "MAX_TOP", "TopLogprobs", "top_logprobs"]


def top_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> TopLogprobs:
    """Natural logarithms of the softmax over the vocabulary, of each row of `logits` for itself.

    logits: [rows, vocab] float32, contiguous last dimension; they are not changed.
    token_ids: [rows, ids] int32, contiguous: the tokens to look up in each row; a negative one is padding and gives `LOWEST`.
    num_top: how many of the likeliest tokens, at most `MAX_TOP`; the whole vocabulary, if it has fewer.
    No host sync; CUDA graphs can hold it. Raises ValueError if `num_top` is too large.
    """
    if not 0 <= num_top <= MAX_TOP:
        raise ValueError(f"num_top must be 0 to {MAX_TOP}, not {num_top}")
    num_top = min(num_top, logits.shape[1])
    if logits.is_cuda:
        from kernels.top_logprobs import triton

        return triton.top_logprobs(logits, token_ids, num_top)
    return reference.top_logprobs(logits, token_ids, num_top)
