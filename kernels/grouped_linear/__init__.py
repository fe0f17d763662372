"""Products of a mixture of experts: every row with the weight of its own expert, all in one launch."""

from __future__ import annotations

from torch import Tensor

from kernels.expert_routing import ExpertOrder
from kernels.grouped_linear import reference

INVARIANT_ROWS_PER_TILE = 64


def rows_per_tile(num_pairs: int, num_experts: int, *, is_deterministic: bool = False) -> int:
    """A good `rows_per_tile` for the order: about what an expert gets of `num_pairs`.

    A row's bits may depend on this number, which chooses the instruction that multiplies, and on nothing else about other
    rows. So deterministic inference has a fixed one.
    """
    if is_deterministic:
        return INVARIANT_ROWS_PER_TILE
    mean = num_pairs // num_experts
    return next((rows for rows in (16, 32, 64) if mean <= rows), 128)


def grouped_linear(x: Tensor, weight: Tensor, order: ExpertOrder, *, from_tokens: bool) -> Tensor:
    """[rows, outputs]: `x @ weight[expert].T` for each row of `order`, summed in float32 and rounded once to x's dtype.

    x: [tokens, inputs] with `from_tokens`, of which a row takes its pair's token; else [rows, inputs], in the order's order.
    bfloat16, float16 or float32, last dimension contiguous. weight: [experts, outputs, inputs] of the same dtype, contiguous.
    On a GPU float32 is not rounded to TF32, and the order's tiles must have 16, 32, 64 or 128 rows.
    """
    if not x.is_cuda:
        return reference.grouped_linear(x, weight, order, from_tokens=from_tokens)
    from kernels.grouped_linear import triton

    return triton.grouped_linear(x, weight, order, from_tokens=from_tokens)
