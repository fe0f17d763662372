"""The rope of a config.json, in its two spellings: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from runtime.layers.rotary import ROPE_KINDS, RopeKind, RopeSpec
from runtime.models.config_reader import ConfigReader

STRETCHED_KINDS = {"linear", "dynamic", "yarn"}
DEFAULTS = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "factor": 1.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": True,
}


def rope_spec(config: ConfigReader, head_dim: int, *, interleaved: bool = False) -> RopeSpec:
    """The rope of all layers. Raises `LoadError` on a kind that is not known or a value that is missing."""
    rope = _rope_reader(config)
    kind = _kind(rope)
    factor = rope.number("factor")
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor"))
    if rotary_dim % 2 or rotary_dim > head_dim:
        rope.fail("partial_rotary_factor", f"a share of head_dim ({head_dim}) that is an even number of dimensions")
    frequency_factors = rope.numbers("frequency_factors")
    if len(frequency_factors) not in (0, rotary_dim // 2):
        rope.fail("frequency_factors", f"a list of {rotary_dim // 2} numbers")
    return RopeSpec(
        rotary_dim=rotary_dim,
        theta=rope.number("rope_theta", low=1.0),
        kind=kind,
        factor=factor,
        original_context=_original_context(config, rope),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        beta_fast=rope.number("beta_fast"),
        beta_slow=rope.number("beta_slow"),
        truncate=rope.flag("truncate"),
        attention_factor=_yarn_attention_factor(rope, factor) if kind == "yarn" else 1.0,
        frequency_factors=frequency_factors,
        interleaved=interleaved,
    )


def context_length(config: ConfigReader) -> int:
    """Tokens a sequence may have. A stretched rope that does not name its original context multiplies the stated one."""
    rope = _rope_reader(config)
    stated = config.size("max_position_embeddings")
    if _kind(rope) in STRETCHED_KINDS and not rope.has("original_max_position_embeddings"):
        return int(stated * max(rope.number("factor"), 1.0))
    return stated


def _rope_reader(config: ConfigReader) -> ConfigReader:
    found: Mapping[str, Any] = config.branch("rope_scaling") or config.branch("rope_parameters") or {}
    outer = {
        "rope_theta": config.optional_number("rope_theta"),
        "partial_rotary_factor": config.optional_number("partial_rotary_factor"),
        "rope_type": found.get("type"),
    }
    defaults = DEFAULTS | {key: value for key, value in outer.items() if value is not None}
    return ConfigReader(found, defaults, name="config.json, rope parameters")


def _kind(rope: ConfigReader) -> RopeKind:
    kind = rope.text("rope_type")
    if kind not in ROPE_KINDS:
        rope.fail("rope_type", f"one of {', '.join(ROPE_KINDS)}")
    return cast("RopeKind", kind)


def _original_context(config: ConfigReader, rope: ConfigReader) -> int:
    own = config.optional_size("original_max_position_embeddings")
    return own or rope.optional_size("original_max_position_embeddings") or config.size("max_position_embeddings")


def _yarn_attention_factor(rope: ConfigReader, factor: float) -> float:
    """What YaRN multiplies queries and keys with, to keep the attention as sharp as before (its section 3.4)."""
    stated = rope.optional_number("attention_factor")
    if stated is not None:
        return stated
    mscale, mscale_all_dim = rope.optional_number("mscale"), rope.optional_number("mscale_all_dim")
    if mscale is not None and mscale_all_dim is not None:
        return _mscale(factor, mscale) / _mscale(factor, mscale_all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
