"""What ranks agree on: one that has less decides for all, one that is different is told of on all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from runtime.config import CacheConfig, Config, ModelConfig
from runtime.errors import ConfigError
from runtime.executor.port import ExecutorLimits
from runtime.executor.shared_limits import agree_on_limits, check_same_model
from runtime.loading.checkpoint import Checkpoint
from tests.models.conftest import TINY

LIMITS = ExecutorLimits(num_pages=10, page_size=16, num_slots=8, context_length=160, vocab_size=100)
LLAMA = {"architectures": ["LlamaForCausalLM"]} | TINY


class Others:
    """A group whose other ranks say these numbers, one after the other."""

    rank, size = 0, 2

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._values = iter(values)
        self.said: list[int] = []

    def least(self, value: int) -> int:
        self.said.append(value)
        return min(value, next(self._values, value))


def agree(others: Iterable[int], *, own: ExecutorLimits = LIMITS, context_length: int | None = None) -> ExecutorLimits:
    config = Config(model=ModelConfig(context_length=context_length))
    return agree_on_limits(Others(others), config, lambda: own)  # type: ignore[arg-type]


def test_the_rank_with_the_least_memory_decides() -> None:
    assert agree([0, 4]) == msgspec.structs.replace(LIMITS, num_pages=4, num_slots=4, context_length=64)
    assert agree([0, 9999]) == LIMITS


def test_memory_is_looked_at_when_all_have_loaded() -> None:
    group = Others()

    def size() -> ExecutorLimits:
        assert group.said == [0]
        return LIMITS

    agree_on_limits(group, Config(), size)  # type: ignore[arg-type]
    assert group.said == [0, 10]


def test_a_context_that_does_not_fit_elsewhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds 64 tokens.*--context-length"):
        agree([0, 4], context_length=100)
    assert agree([0, 7], context_length=100).num_pages == 7


def checkpoint(**settings: Any) -> Checkpoint:
    return Checkpoint("model", None, LLAMA | settings, lambda: None, None)  # type: ignore[arg-type, return-value]


def fingerprint(config: Config, **settings: Any) -> int:
    group = Others()
    check_same_model(group, config, checkpoint(**settings))  # type: ignore[arg-type]
    number, negative = group.said
    assert number == -negative
    return number


def test_what_makes_a_model_another() -> None:
    base = Config(model=ModelConfig(dtype="float32"))
    assert fingerprint(base) == fingerprint(Config(model=ModelConfig(dtype="float32", model_path="/elsewhere")))
    others = {
        fingerprint(Config(model=ModelConfig(dtype="bfloat16"))),
        fingerprint(Config(model=ModelConfig(dtype="float32", activation_bits="8"))),
        fingerprint(Config(model=ModelConfig(dtype="float32", context_length=64))),
        fingerprint(Config(model=ModelConfig(dtype="float32"), cache=CacheConfig(page_size=8))),
        fingerprint(base, intermediate_size=128),
    }
    assert len(others) == 5
    assert fingerprint(base) not in others


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_model_is_refused(difference: int) -> None:
    config = Config(model=ModelConfig(dtype="float32"))
    other = fingerprint(config) + difference
    with pytest.raises(ConfigError, match="do not agree on the model"):
        check_same_model(Others([other, -other]), config, checkpoint())  # type: ignore[arg-type]
