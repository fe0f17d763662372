"""Products with plain weights of which a row does not depend, bit for bit, on the others: for deterministic inference.

cuBLAS chooses tiles and splits by the number of rows, so a token's sums are added in another order alone than in a batch. Here
tile sizes and the order of the additions follow from the weight's shape and the dtype alone.
He and others, "Defeating Nondeterminism in LLM Inference", Thinking Machines Lab, 2025.
"""

from __future__ import annotations

from torch import Tensor

from kernels.invariant_linear import reference


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [rows, inputs] → `x @ weight.T + bias` [rows, outputs], summed in float32 and rounded once to x's dtype.

    x: bfloat16, float16 or float32, last dimension contiguous. weight: [outputs, inputs] of the same dtype, last dimension
    contiguous. bias: [outputs] or None. On a GPU float32 is not rounded to TF32. A CPU tensor goes to the reference, which
    promises nothing about bits.
    """
    if not x.is_cuda:
        return reference.invariant_linear(x, weight, bias)
    from kernels.invariant_linear import triton

    return triton.invariant_linear(x, weight, bias)
