"""Sizing on a GPU: the cache takes what weights and a step leave, and errors say what to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import CacheConfig, Config, ModelConfig, SchedulerConfig
from runtime.errors import ConfigError
from runtime.executor.device_memory import BUDGET_TOKENS, Footprint, _table_bytes, size_device, step_limits
from runtime.executor.device_port import DeviceMemory
from runtime.executor.memory import ModelSize
from runtime.layers.forward import KVShape

GB = 2**30
SHAPE = KVShape(num_layers=32, num_kv_heads=8, head_dim=128, dtype=torch.bfloat16)  # 128 KB a token
MODEL = ModelSize(kv_shape=SHAPE, vocab_size=128_256, context_length=131_072, weight_bytes=16 * GB)
MEMORY = DeviceMemory(free_bytes=123 * GB, total_bytes=140 * GB)
FOOTPRINT = Footprint(step_bytes=2 * GB, graphs_bytes=GB, table_bytes=GB // 4)
PAGE_BYTES = 16 * SHAPE.bytes_per_token


def config_of(
    *, context_length: int | None = None, num_slots: int | None = None, budget: int | None = None, **cache: object
) -> Config:
    return Config(
        model=ModelConfig(context_length=context_length),
        cache=CacheConfig(**cache),  # type: ignore[arg-type]
        scheduler=SchedulerConfig(max_running_requests=num_slots, chunked_prefill_size=budget),
    )


def test_by_default_the_cache_takes_what_is_left() -> None:
    limits = size_device(config_of(), MODEL, MEMORY, FOOTPRINT)
    used = (limits.num_pages + 1) * PAGE_BYTES
    left = MEMORY.free_bytes - FOOTPRINT.total_bytes - used
    assert 0.02 * MEMORY.total_bytes <= left < 0.02 * MEMORY.total_bytes + 2 * PAGE_BYTES
    assert (limits.context_length, limits.num_slots, limits.budget_tokens) == (131_072, 256, BUDGET_TOKENS)


def test_a_share_counts_weights_and_cache() -> None:
    limits = size_device(config_of(mem_fraction_static=0.5), MODEL, MEMORY, FOOTPRINT)
    taken = MEMORY.total_bytes - MEMORY.free_bytes + (limits.num_pages + 1) * PAGE_BYTES
    assert 0 <= 0.5 * MEMORY.total_bytes - taken < 2 * PAGE_BYTES


def test_a_share_that_leaves_no_room_for_a_step_is_refused_with_one_that_does() -> None:
    with pytest.raises(ConfigError, match=r"--mem-fraction-static 0.99 .* at most 0.97"):
        size_device(config_of(mem_fraction_static=0.99), MODEL, MEMORY, FOOTPRINT)
    assert size_device(config_of(mem_fraction_static=0.97), MODEL, MEMORY, FOOTPRINT).num_pages > 0


def test_a_share_smaller_than_the_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="no KV cache fits"):
        size_device(config_of(mem_fraction_static=0.05), MODEL, MEMORY, FOOTPRINT)


def test_a_full_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="a step needs 3328 MB"):
        size_device(config_of(), MODEL, DeviceMemory(2 * GB, 140 * GB), FOOTPRINT)


def test_as_many_tokens_as_were_asked_for_or_an_error() -> None:
    assert size_device(config_of(max_total_tokens=4096, context_length=4096), MODEL, MEMORY, FOOTPRINT).num_pages == 256
    with pytest.raises(ConfigError, match="--max-total-tokens 10000000 does not fit"):
        size_device(config_of(max_total_tokens=10_000_000), MODEL, MEMORY, FOOTPRINT)


def test_a_cache_is_not_larger_than_all_slots_can_fill() -> None:
    limits = size_device(config_of(context_length=1024, num_slots=4), MODEL, MEMORY, FOOTPRINT)
    assert limits.num_pages == 4 * 1024 // 16 - 1, "one page is the scratch page"


@given(context_length=st.integers(2, 200_000), num_slots=st.integers(1, 512), budget=st.sampled_from([None, -1, 1, 64, 8192]))
def test_the_largest_step_fits_in_its_own_limits(context_length: int, num_slots: int, budget: int | None) -> None:
    limits = step_limits(config_of(context_length=context_length, num_slots=num_slots, budget=budget), MODEL)
    assert limits.num_slots == num_slots
    assert 2 <= limits.context_length <= context_length
    assert limits.num_pages * 16 >= limits.context_length


def test_the_table_is_counted_for_a_whole_context() -> None:
    config = config_of(num_slots=8, context_length=32_768)
    limits = step_limits(config, MODEL)
    found = _table_bytes(config, MODEL, limits)
    assert 0 <= found - 9 * (32_769 * 4 + 2048 * 4) < 200_000
