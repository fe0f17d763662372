"""Sizing the KV cache, and the memory it takes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.config import CacheConfig, Config, ModelConfig, SchedulerConfig
from runtime.errors import ConfigError
from runtime.executor import memory
from runtime.executor.memory import ModelSize, allocate_kv, size_limits
from runtime.layers.forward import KVShape

KV_SHAPE = KVShape(num_layers=30, num_kv_heads=3, head_dim=64, dtype=torch.bfloat16)
MODEL = ModelSize(kv_shape=KV_SHAPE, vocab_size=49152, context_length=8192, weight_bytes=100 * 2**20)
PLENTY = 64 * 2**30


def config_of(
    *,
    max_total_tokens: int | None = None,
    mem_fraction_static: float | None = None,
    context_length: int | None = None,
    max_running_requests: int | None = None,
    page_size: int = 16,
) -> Config:
    return Config(
        model=ModelConfig(context_length=context_length),
        cache=CacheConfig(max_total_tokens=max_total_tokens, mem_fraction_static=mem_fraction_static, page_size=page_size),
        scheduler=SchedulerConfig(max_running_requests=max_running_requests),
    )


def test_the_default_is_capped() -> None:
    limits = size_limits(config_of(), MODEL, PLENTY)
    assert (limits.num_pages * limits.page_size, limits.num_slots) == (memory.DEFAULT_MAX_TOKENS, 256)
    assert (limits.context_length, limits.vocab_size) == (8192, 49152)


def test_the_default_holds_one_context_if_that_is_longer() -> None:
    model = ModelSize(kv_shape=KV_SHAPE, vocab_size=10, context_length=100_000, weight_bytes=0)
    assert size_limits(config_of(), model, PLENTY).num_pages == 100_000 // 16


def test_a_given_fraction_has_no_cap_but_use() -> None:
    limits = size_limits(config_of(mem_fraction_static=0.5), MODEL, PLENTY)
    expected = ((PLENTY + MODEL.weight_bytes) // 2 - MODEL.weight_bytes) // KV_SHAPE.bytes_per_token // 16
    assert limits.num_pages == expected
    few = size_limits(config_of(mem_fraction_static=0.9, max_running_requests=2), MODEL, PLENTY)
    assert (few.num_pages * 16, few.num_slots) == (2 * 8192, 2), "two sequences can not use more"


def test_little_memory_gives_fewer_pages_slots_and_a_shorter_context() -> None:
    available_bytes = 70 * 2**20
    limits = size_limits(config_of(), MODEL, available_bytes)
    num_bytes = limits.num_pages * 16 * KV_SHAPE.bytes_per_token
    assert num_bytes <= 0.6 * (available_bytes + MODEL.weight_bytes) - MODEL.weight_bytes
    assert limits.num_slots == limits.num_pages < 256
    assert limits.context_length == limits.num_pages * 16 < 8192


def test_max_total_tokens_is_taken_as_it_is() -> None:
    limits = size_limits(config_of(max_total_tokens=1000, max_running_requests=500), MODEL, PLENTY)
    assert (limits.num_pages, limits.num_slots, limits.context_length) == (62, 62, 992)


@pytest.mark.parametrize(
    ("config", "available_bytes", "match"),
    [
        (config_of(max_total_tokens=47), PLENTY, "--max-total-tokens"),
        (config_of(), 0, "--mem-fraction-static"),
        (config_of(mem_fraction_static=0.001), 2**30, "--mem-fraction-static"),
        (config_of(max_total_tokens=4096, context_length=5000), PLENTY, "--context-length"),
        (config_of(max_total_tokens=10**12), PLENTY, "--max-total-tokens"),
    ],
    ids=["too few pages", "no memory", "tiny fraction", "less than a context", "more than there is"],
)
def test_what_does_not_fit_is_a_config_error(config: Config, available_bytes: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        size_limits(config, MODEL, available_bytes)


@given(
    available_bytes=st.integers(0, 2**42),
    max_total_tokens=st.none() | st.integers(0, 2**40),
    fraction=st.none() | st.floats(0.001, 1.0),
    context_length=st.none() | st.integers(1, 10**6),
    page_size=st.sampled_from([1, 16, 64]),
)
def test_limits_are_always_possible(
    available_bytes: int, max_total_tokens: int | None, fraction: float | None, context_length: int | None, page_size: int
) -> None:
    config = config_of(
        max_total_tokens=max_total_tokens, mem_fraction_static=fraction, context_length=context_length, page_size=page_size
    )
    try:
        limits = size_limits(config, MODEL, available_bytes)
    except ConfigError:
        return
    num_tokens = limits.num_pages * limits.page_size
    assert limits.num_pages >= memory.MIN_PAGES
    assert 1 <= limits.num_slots <= min(256, limits.num_pages)
    assert 1 <= limits.context_length <= num_tokens < 2**31
    assert num_tokens * KV_SHAPE.bytes_per_token <= available_bytes


def test_the_cache_is_zero_and_takes_memory_only_when_written() -> None:
    process = psutil.Process()
    num_pages = 4096
    before = process.memory_info().rss
    kv = allocate_kv(KV_SHAPE, num_pages, 16)
    num_bytes = num_pages * 16 * KV_SHAPE.bytes_per_token
    assert process.memory_info().rss - before < num_bytes // 20
    assert (len(kv.keys), len(kv.values)) == (30, 30)
    for tensor in (*kv.keys, *kv.values):
        assert tensor.shape == (num_pages, 3, 16, 64)
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0
    assert not kv.values[-1][-1].any()
    kv.keys[3][5] = 1.0
    changed = sum(int(tensor[:8].count_nonzero()) for tensor in (*kv.keys, *kv.values))
    assert changed == 3 * 16 * 64, "no two layers share memory"


def test_a_cache_that_the_system_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="--max-total-tokens"):
        allocate_kv(KV_SHAPE, 2**40, 16)


def test_free_memory_is_what_the_machine_says() -> None:
    assert 0 < memory.free_memory_bytes() <= psutil.virtual_memory().total


def test_free_memory_of_a_machine_without_meminfo(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory._free_on_machine(tmp_path / "missing") == total // 2


def test_free_memory_in_a_container_counts_cached_files_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 400\nactive_file 200\ninactive_file 250\n")
    assert memory._free_in_container(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_container(tmp_path) > 2**50
    assert memory._free_in_container(tmp_path / "missing") > 2**50
