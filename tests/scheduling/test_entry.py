from __future__ import annotations

import pytest

from runtime.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from runtime.scheduling.entry import DEFAULT_MAX_QUEUED_REQUESTS, QueueLimit, granted_tokens
from tests.scheduling.conftest import make_admit, make_limits

LIMITS = make_limits(num_pages=8, page_size=4, context_length=20)


def test_what_fits_is_granted() -> None:
    assert granted_tokens(make_admit(1, range(10), max_new_tokens=10), LIMITS) == 10


def test_without_a_count_the_context_is_filled() -> None:
    assert granted_tokens(make_admit(1, range(13), max_new_tokens=None), LIMITS) == 7


def test_without_a_count_a_small_pool_is_filled() -> None:
    limits = make_limits(num_pages=4, page_size=4, context_length=100)
    assert granted_tokens(make_admit(1, range(10), max_new_tokens=None), limits) == 7  # the last needs no place


def test_no_more_can_be_insisted_on_than_fits() -> None:
    assert granted_tokens(make_admit(1, range(13), max_new_tokens=None, min_new_tokens=7), LIMITS) == 7
    with pytest.raises(InvalidRequest, match="7 tokens") as refusal:
        granted_tokens(make_admit(1, range(13), max_new_tokens=None, min_new_tokens=8), LIMITS)
    assert refusal.value.failure.param == "min_new_tokens"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        granted_tokens(make_admit(1, []), LIMITS)


@pytest.mark.parametrize("max_new_tokens", [0, 1, None])
def test_a_prompt_that_leaves_no_room_is_refused(max_new_tokens: int | None) -> None:
    with pytest.raises(ContextLengthExceeded, match="context of 20 tokens"):
        granted_tokens(make_admit(1, range(20), max_new_tokens=max_new_tokens), LIMITS)


def test_prompt_and_output_together_keep_the_context() -> None:
    with pytest.raises(ContextLengthExceeded, match="max_new_tokens") as refusal:
        granted_tokens(make_admit(1, range(10), max_new_tokens=11), LIMITS)
    assert refusal.value.failure.param == "max_new_tokens"
    assert refusal.value.failure.code == "context_length_exceeded"


def test_a_prompt_that_the_pool_can_not_hold_is_told_its_size() -> None:
    limits = make_limits(num_pages=3, page_size=4, context_length=100)
    assert granted_tokens(make_admit(1, range(12), max_new_tokens=1), limits) == 1
    with pytest.raises(ContextLengthExceeded, match=r"holds 12.*--max-total-tokens"):
        granted_tokens(make_admit(1, range(13), max_new_tokens=1), limits)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    limit = QueueLimit(2)
    limit.check(1, 0.0)
    with pytest.raises(Overloaded) as refusal:
        limit.check(2, 0.0)
    assert refusal.value.failure.code == "queue_full"
    assert refusal.value.failure.retry_after == 1


@pytest.mark.parametrize(("seconds_per_end", "retry_after"), [(0.001, 1), (0.5, 5), (100.0, 60)])
def test_retry_after_follows_the_rate(seconds_per_end: float, retry_after: int) -> None:
    limit = QueueLimit(10)
    for number in range(5):
        limit.ended(number * seconds_per_end)
    with pytest.raises(Overloaded) as refusal:
        limit.check(10, 5 * seconds_per_end)
    assert refusal.value.failure.retry_after == retry_after


def test_the_queue_is_bounded_by_default() -> None:
    limit = QueueLimit(None)
    limit.check(DEFAULT_MAX_QUEUED_REQUESTS - 1, 0.0)
    with pytest.raises(Overloaded):
        limit.check(DEFAULT_MAX_QUEUED_REQUESTS, 0.0)
