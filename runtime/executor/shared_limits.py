"""What the ranks that share a model have to agree on before the first step: the model itself, and the size of the cache.

A page has the same number on every rank, so that the rank with the least memory decides for all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import msgspec

from runtime.config import Config
from runtime.errors import ConfigError
from runtime.executor.port import ExecutorLimits
from runtime.layers.precision import compute_dtype
from runtime.layers.rank_group import RankGroup, check_agreement
from runtime.loading.checkpoint import Checkpoint
from runtime.models.architectures import spec_for


def check_same_model(group: RankGroup, config: Config, checkpoint: Checkpoint) -> None:
    """Raises `ConfigError` on all ranks if one would compute something else. Weights of one shape are not told apart."""
    model = config.model
    numbers = (compute_dtype(model.dtype), model.dtype == "auto", model.activation_bits, model.load_format)
    described = repr((spec_for(checkpoint.config), numbers, model.context_length, config.cache.page_size))
    check_agreement(group, zlib.crc32(described.encode()), "the model")


def agree_on_limits(group: RankGroup, config: Config, size: Callable[[], ExecutorLimits]) -> ExecutorLimits:
    """The limits that fit on every rank. `size`: those that fit here, asked for when all ranks have loaded their weights.

    Raises `ConfigError` like `memory.size_limits`.
    """
    group.least(0)  # a rank that still loads would find less memory than it looks
    own = size()
    num_pages = group.least(own.num_pages)
    num_tokens = num_pages * own.page_size
    if config.model.context_length is not None and num_tokens < config.model.context_length:
        raise ConfigError(
            f"a rank's KV cache holds {num_tokens} tokens, which is less than one context of {config.model.context_length}:"
            " lower --context-length, or free some memory there"
        )
    return msgspec.structs.replace(
        own,
        num_pages=num_pages,
        num_slots=min(own.num_slots, num_pages),
        context_length=min(own.context_length, num_tokens),
    )
