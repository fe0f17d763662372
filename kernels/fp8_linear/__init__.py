"""Products in 8-bit floating point, e4m3, as DeepSeek-V3's checkpoints are made for.

A weight has one scale per block of 128 × 128. Activations are quantized on the way: each token has one scale per 128 inputs.
DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.3. Tiles and the order of additions follow from the weight's shape
alone, so a row of the result does not depend on the others.
"""

from __future__ import annotations

from torch import Tensor

from kernels.fp8_linear import reference
from kernels.fp8_linear.reference import BLOCK

__all__ = ["BLOCK", "fp8_linear", "quantize"]


def fp8_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [rows, inputs] → [rows, outputs] of x's dtype: quantized x times `weight` times `scales`, summed in float32, plus bias.

    x: bfloat16, float16 or float32, last dimension contiguous. weight: [outputs, inputs] float8_e4m3fn, contiguous.
    scales: [⌈outputs / 128⌉, ⌈inputs / 128⌉] float32, contiguous, what a block's values are multiplied with (`weight_scale_inv`
    in checkpoints). bias: [outputs] or None.
    """
    if not x.is_cuda:
        return reference.fp8_linear(x, weight, scales, bias)
    from kernels.fp8_linear import triton

    return triton.fp8_linear(x, weight, scales, bias)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values [rows, inputs] float8_e4m3fn and scales [rows, ⌈inputs / 128⌉] float32, whose products are about `x`.

    The largest value of a group becomes 448, the largest that e4m3 has; a group of zeros has the scale 1.
    """
    if not x.is_cuda:
        return reference.quantize(x)
    from kernels.fp8_linear import triton

    return triton.quantize(x)
