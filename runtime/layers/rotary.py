"""Rotary position embedding: what a model says about it, and the table of cosines and sines that the kernels read.

A table is made once per engine for the longest sequence it can hold, so that a position always has one angle, whatever was
cached before. Su et al. 2021 (RoFormer); linear scaling: kaiokendev 2023; dynamic NTK: bloc97 2023; YaRN: Peng et al. 2023,
arXiv 2309.00071; llama3: Meta's Llama 3.1 release. The formulas follow transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
ROPE_KINDS: tuple[str, ...] = get_args(RopeKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """The angles of a layer: `rotary_dim` dimensions of a head turn, the rest stay."""

    rotary_dim: int
    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_context: int = 0
    """Tokens the model was first trained for; dynamic, llama3 and yarn stretch from there."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    """Multiplies cosines and sines."""
    frequency_factors: tuple[float, ...] = ()
    """What each frequency is divided by, as GGUF files store llama3 scaling."""
    interleaved: bool = False
    """Pairs are (2i, 2i + 1) rather than (i, i + rotary_dim / 2)."""


def cos_sin_table(rope: RopeSpec, num_positions: int) -> Tensor:
    """[num_positions, rotary_dim] float32: cosines in the first half, sines in the second."""
    frequencies = _frequencies(rope, num_positions)  # [rotary_dim / 2]
    if rope.frequency_factors:
        frequencies = frequencies / torch.tensor(rope.frequency_factors)
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies  # [num_positions, rotary_dim / 2]
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * rope.attention_factor


def _frequencies(rope: RopeSpec, num_positions: int) -> Tensor:
    match rope.kind:
        case "default":
            return _inverse(rope, rope.theta)
        case "linear":
            return _inverse(rope, rope.theta) / rope.factor
        case "dynamic":
            return _inverse(rope, _dynamic_theta(rope, num_positions))
        case "llama3":
            return _llama3(rope)
        case "yarn":
            return _yarn(rope)


def _inverse(rope: RopeSpec, theta: float) -> Tensor:
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    return 1.0 / theta**exponents


def _dynamic_theta(rope: RopeSpec, num_positions: int) -> float:
    """The base for the longest sequence, used for all: the original one changes it as a sequence grows."""
    stretch = rope.factor * max(num_positions, rope.original_context) / rope.original_context - (rope.factor - 1)
    return rope.theta * float(stretch ** (rope.rotary_dim / (rope.rotary_dim - 2)))


def _llama3(rope: RopeSpec) -> Tensor:
    """Long waves are stretched by `factor`, short ones stay, those between are a mixture."""
    frequencies = _inverse(rope, rope.theta)
    waves_in_context = rope.original_context * frequencies / (2 * math.pi)
    share = (waves_in_context - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    share = share.clamp(0.0, 1.0)  # 1: as trained, 0: stretched
    return (1 - share) * frequencies / rope.factor + share * frequencies


def _yarn(rope: RopeSpec) -> Tensor:
    """Dimensions that turn often keep their frequency, slow ones are stretched by `factor`, with a ramp between."""
    frequencies = _inverse(rope, rope.theta)
    low, high = _yarn_dimension(rope, rope.beta_fast), _yarn_dimension(rope, rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low if high != low else 0.001
    stretched = ((torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    return frequencies / rope.factor * stretched + frequencies * (1 - stretched)


def _yarn_dimension(rope: RopeSpec, num_rotations: float) -> float:
    """The dimension that turns `num_rotations` times over the original context."""
    turns = rope.original_context / (num_rotations * 2 * math.pi)
    return rope.rotary_dim * math.log(turns) / (2 * math.log(rope.theta))
