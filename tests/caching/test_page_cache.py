from __future__ import annotations

import pytest

from runtime.caching.page_cache import PageCache
from runtime.errors import ConfigError
from runtime.messages import Grow, Grown, PagesDenied, Publish, Release, SettleStep
from tests.caching.conftest import compute, granted, new_cache, num_cached_tokens, release, tokens


def test_a_grant_covers_all_tokens() -> None:
    cache = new_cache(6)
    grant = granted(cache, "aabbc", request_id=7)
    assert (grant.request_id, len(grant.pages), grant.num_cached_tokens) == (7, 3, 0)
    assert grant.num_available_pages == cache.num_available_pages == 3
    cache.check()


def test_a_second_request_takes_the_cached_prefix() -> None:
    cache = new_cache(6)
    first = compute(cache, "aabbcc")
    second = granted(cache, "aabbcx")
    assert second.num_cached_tokens == 4
    assert second.pages[:2] == first.pages[:2]
    cache.check()


@pytest.mark.parametrize(("prompt", "num_tokens"), [("aabb", 2), ("aabbc", 4), ("aab", 2), ("aa", 0), ("a", 0), ("", 0)])
def test_the_last_token_is_never_taken_from_the_cache(prompt: str, num_tokens: int) -> None:
    cache = new_cache(8)
    compute(cache, "aabbcc")
    assert num_cached_tokens(cache, prompt) == num_tokens
    cache.check()


def test_a_denial_takes_nothing_and_evicts_nothing() -> None:
    cache = new_cache(4)
    compute(cache, "aabbcc")
    before = cache.state()
    assert cache.reserve(1, tokens("xxxxxxxxx")) == PagesDenied(request_id=1, num_available_pages=4)
    assert cache.state() == before
    assert num_cached_tokens(cache, "aabbccx") == 6


def test_a_matched_prefix_does_not_count_as_evictable_for_its_own_request() -> None:
    cache = new_cache(4)
    compute(cache, "aabb")
    assert isinstance(cache.reserve(1, tokens("aabbccddee")), PagesDenied)
    assert len(granted(cache, "aabbccdd").pages) == 4
    cache.check()


def test_reserving_evicts_the_longest_unused() -> None:
    cache = new_cache(5)
    compute(cache, "aabb")
    compute(cache, "ccdd")
    compute(cache, "aab")
    granted(cache, "xxyy")
    cache.watch(1, tokens("aabbz"))
    cache.watch(2, tokens("ccddz"))
    assert {match.request_id: match.num_cached_tokens for match in cache.changed_matches()} == {1: 2, 2: 4}
    cache.check()


def test_growth_evicts_and_is_served_in_order() -> None:
    cache = new_cache(6)
    compute(cache, "aabbcc")
    first, second, third = (granted(cache, text) for text in "xyz")
    grown, denied = cache.grow((Grow(first.lease_id, 2), Grow(second.lease_id, 2), Grow(third.lease_id, 1)))
    assert [(growth.lease_id, len(growth.pages)) for growth in grown] == [(first.lease_id, 2), (third.lease_id, 1)]
    assert denied == (second.lease_id,)
    assert cache.num_available_pages == 0
    cache.check()


def test_a_denied_growth_evicts_nothing() -> None:
    cache = new_cache(4)
    compute(cache, "aabb")
    lease_id = granted(cache, "x").lease_id
    assert cache.grow((Grow(lease_id, 4),)) == ((), (lease_id,))
    assert cache.state().num_cached_pages == 2


def test_settling_publishes_then_releases_then_grows() -> None:
    cache = new_cache(3)
    first, second = granted(cache, "aabb"), granted(cache, "x")
    answer = cache.settle(
        SettleStep(
            step_id=5,
            retired_step=4,
            publishes=(Publish(first.lease_id, 2),),
            releases=(Release(first.lease_id, tokens("aabb"), 4),),
            grows=(Grow(second.lease_id, 2), Grow(first.lease_id, 1)),
        )
    )
    assert answer.step_id == 5
    assert answer.denied == (first.lease_id,)
    assert sorted(answer.grown[0].pages) == sorted(first.pages)
    assert answer.num_available_pages == 0
    assert cache.num_late == 1
    cache.check()


def test_settling_retires_before_it_releases() -> None:
    cache = new_cache(2)
    grant = granted(cache, "aab")
    step = SettleStep(step_id=9, retired_step=8, releases=(Release(grant.lease_id, (), 8),))
    assert cache.settle(step).num_available_pages == 2


def test_a_fenced_page_is_not_reissued() -> None:
    cache = new_cache(3)
    grant = granted(cache, "aab")
    other = granted(cache, "x")
    step = SettleStep(
        step_id=2, retired_step=1, releases=(Release(grant.lease_id, tokens("aab"), 2),), grows=(Grow(other.lease_id, 2),)
    )
    assert cache.settle(step).denied == (other.lease_id,)
    assert (cache.state().num_fenced_pages, cache.num_available_pages) == (1, 1)
    cache.check()
    grown = cache.settle(SettleStep(step_id=3, retired_step=2, grows=(Grow(other.lease_id, 2),))).grown
    assert isinstance(grown[0], Grown)
    assert grant.pages[1] in grown[0].pages


def test_late_answers_are_counted_and_ignored() -> None:
    cache = new_cache(4)
    grant = granted(cache, "aab")
    release(cache, grant, "aab")
    before = cache.state()
    release(cache, grant, "aab")
    cache.publish(grant.lease_id, 2)
    assert cache.grow((Grow(grant.lease_id, 1),)) == ((), (grant.lease_id,))
    cache.unwatch(99)
    assert cache.num_late == 4
    assert cache.state() == before
    cache.check()


def test_flush_drops_what_is_not_in_use() -> None:
    cache = new_cache(8)
    compute(cache, "aabbcc")
    compute(cache, "xxyy")
    running = granted(cache, "aabz")
    assert cache.flush() == 4
    assert num_cached_tokens(cache, "aabbcc") == 2
    cache.check()
    release(cache, running, "")
    assert cache.flush() == 1
    assert cache.state().num_free_pages == 8


def test_state_counts_each_page_once() -> None:
    cache = new_cache(8)
    compute(cache, "aabb")
    granted(cache, "aabbc")
    release(cache, granted(cache, "xxy"), "xx", fence_step=3)
    state = cache.state()
    assert (state.num_pages, state.page_size, state.num_leases) == (8, 2, 1)
    assert (state.num_free_pages, state.num_cached_pages, state.num_leased_pages, state.num_fenced_pages) == (3, 1, 3, 1)


def test_without_the_radix_cache_nothing_is_shared() -> None:
    cache = new_cache(6, disable_radix_cache=True)
    running = granted(cache, "aabbc")
    cache.publish(running.lease_id, 4)
    release(cache, running, "aabbc")
    assert cache.state().num_free_pages == 6
    assert num_cached_tokens(cache, "aabbc") == 0
    cache.watch(1, tokens("aabbc"))
    assert cache.changed_matches()[0].num_cached_tokens == 0
    cache.check()


def test_a_chain_of_a_hundred_thousand_nodes() -> None:
    """Depth is the client's choice: no recursion anywhere."""
    num_tokens = 100_000
    cache = PageCache(num_tokens + 2, 1)
    prompt = tuple(range(num_tokens))
    grant = cache.reserve(0, prompt)
    for num_computed_tokens in range(1, num_tokens + 1):
        cache.publish(1, num_computed_tokens)
    cache.release(Release(1, prompt, -1))
    cache.watch(1, (*prompt, 7))
    assert [match.num_cached_tokens for match in cache.changed_matches()] == [num_tokens]
    cache.check()
    again = cache.reserve(2, (*prompt, 7))
    assert again.num_available_pages == 1
    cache.release(Release(2, (*prompt, 7), -1))
    assert cache.flush() == grant.num_available_pages + num_tokens - 1
    cache.check()


def test_a_cache_needs_a_page_and_a_token() -> None:
    with pytest.raises(ConfigError):
        PageCache(0, 16)
    with pytest.raises(ConfigError):
        PageCache(16, 0)


def test_the_check_finds_a_lost_page() -> None:
    cache = new_cache(4)
    cache._leases.pop(granted(cache, "aab").lease_id)
    with pytest.raises(AssertionError, match="are lost"):
        cache.check()


def test_the_check_finds_a_lock_without_a_lease() -> None:
    cache = new_cache(4)
    grant = granted(cache, "aab")
    cache.publish(grant.lease_id, 2)
    cache._tree.lock(cache._leases[grant.lease_id].node)
    with pytest.raises(AssertionError, match="2 locks on a node that 1 leases pass"):
        cache.check()
