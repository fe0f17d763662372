"""Who computes what: every head, number and id exactly once, in shares that are nearly equal."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.layers.sharding import MLP_UNIT, VOCAB_UNIT, Partition, partition, split


def made(num_ranks: int, num_kv_heads: int, group: int, mlp_sizes: Collection[int], vocab: int) -> Partition:
    return partition(
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        mlp_sizes=mlp_sizes,
        vocab_size=vocab,
        num_ranks=num_ranks,
    )


@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_parts_are_the_whole_in_units(num_items: int, num_parts: int, unit: int, last_get_more: bool) -> None:
    parts = split(num_items, num_parts, unit, last_get_more=last_get_more)
    assert len(parts) == num_parts
    assert list(chain(*parts)) == list(range(num_items))
    assert all(part.start % unit == 0 for part in parts if part)
    num_units = [-(-len(part) // unit) for part in parts]
    assert max(num_units) - min(num_units) <= 1
    assert num_units == sorted(num_units, reverse=not last_get_more)


@given(
    st.integers(1, 8), st.integers(1, 64), st.integers(1, 8), st.sets(st.integers(1, 4096), max_size=3), st.integers(1, 5000)
)
def test_every_rank_has_a_share_of_everything_or_the_error_says_how_many_can(
    num_ranks: int, num_kv_heads: int, group: int, mlp_sizes: set[int], vocab: int
) -> None:
    most = min(num_kv_heads, -(-vocab // VOCAB_UNIT), *(-(-size // MLP_UNIT) for size in mlp_sizes))
    if num_ranks > most:
        with pytest.raises(ConfigError, match=f"at most {most}$"):
            made(num_ranks, num_kv_heads, group, mlp_sizes, vocab)
        return
    parts = made(num_ranks, num_kv_heads, group, mlp_sizes, vocab)
    for ranges in (parts.heads, parts.kv_heads, *parts.mlp.values(), parts.vocab):
        assert len(ranges) == num_ranks
        assert all(ranges)
    assert parts.mlp.keys() == mlp_sizes
    for heads, kv_heads in zip(parts.heads, parts.kv_heads, strict=True):
        assert sorted({head // group for head in heads}) == list(kv_heads)
        assert len(heads) == len(kv_heads) * group


def test_the_embedded_model_on_two_ranks() -> None:
    parts = partition(num_heads=9, num_kv_heads=3, mlp_sizes=[1536], vocab_size=49152, num_ranks=2)
    assert parts.heads == (range(6), range(6, 9))
    assert parts.kv_heads == (range(2), range(2, 3))
    assert parts.mlp == {1536: (range(768), range(768, 1536))}
    assert parts.vocab == (range(24576), range(24576, 49152))


def test_too_many_ranks() -> None:
    with pytest.raises(ConfigError, match=r"--tp 4 .* 3 key-value heads .* at most 3$"):
        partition(num_heads=9, num_kv_heads=3, mlp_sizes=[1536], vocab_size=49152, num_ranks=4)
