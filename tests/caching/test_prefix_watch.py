from __future__ import annotations

from runtime.caching.page_cache import PageCache
from runtime.caching.prefix_watch import WINDOW
from runtime.messages import PrefixMatch
from tests.caching.conftest import compute, granted, new_cache, release, tokens


def watch(cache: PageCache, *texts: str) -> None:
    for request_id, text in enumerate(texts):
        cache.watch(request_id, tokens(text))


def order(matches: tuple[PrefixMatch, ...]) -> list[int]:
    """Request ids as the walk meets them."""
    return [match.request_id for match in sorted(matches, key=lambda match: match.tree_order)]


def test_a_new_request_is_told_at_once() -> None:
    cache = new_cache(4)
    compute(cache, "aabb")
    watch(cache, "aabbc", "zz")
    assert cache.changed_matches() == (PrefixMatch(0, 4, 0), PrefixMatch(1, 0, 1))
    assert cache.changed_matches() == ()


def test_only_changes_are_told() -> None:
    cache = new_cache(8)
    watch(cache, "aabbc", "zzyyx")
    cache.changed_matches()
    compute(cache, "ccdd")
    assert cache.changed_matches() == ()
    compute(cache, "aabb")
    assert cache.changed_matches() == (PrefixMatch(0, 4, 0),)


def test_a_match_grows_while_its_prefix_runs() -> None:
    cache = new_cache(8)
    running = granted(cache, "aabbccd")
    watch(cache, "aabbccx")
    told = []
    for num_computed_tokens in (1, 2, 4, 6):
        cache.publish(running.lease_id, num_computed_tokens)
        told += [match.num_cached_tokens for match in cache.changed_matches()]
    assert told == [0, 2, 4, 6]


def test_a_match_shrinks_with_eviction() -> None:
    cache = new_cache(4)
    compute(cache, "aabbcc")
    watch(cache, "aabbccd")
    told = [cache.changed_matches()[0].num_cached_tokens]
    for text in ("xx", "yy", "zz", "ww"):
        granted(cache, text)
        told += [match.num_cached_tokens for match in cache.changed_matches()]
    assert told == [6, 4, 2, 0]


def test_the_last_token_is_not_counted() -> None:
    cache = new_cache(4)
    compute(cache, "aabb")
    watch(cache, "aabb")
    assert cache.changed_matches()[0].num_cached_tokens == 2


def test_the_heaviest_subtree_comes_first() -> None:
    cache = new_cache(16)
    for text in ("aabb", "aacc", "ddee"):
        compute(cache, text)
    watch(cache, "q", "aabbx", "ddeex", "aaccx", "ddeey", "aaccy", "ddx", "aaq")
    assert order(cache.changed_matches()) == [3, 5, 1, 7, 2, 4, 6, 0]


def test_ties_keep_the_order_of_arrival() -> None:
    cache = new_cache(8)
    for text in ("aa", "bb", "cc"):
        compute(cache, text)
    watch(cache, "bbx", "ccx", "aax")
    assert order(cache.changed_matches()) == [0, 1, 2]


def test_a_departure_changes_the_order_of_others() -> None:
    cache = new_cache(8)
    compute(cache, "aa")
    compute(cache, "bb")
    watch(cache, "aax", "bbx", "bby")
    assert order(cache.changed_matches()) == [1, 2, 0]
    cache.unwatch(1)
    cache.unwatch(2)
    assert cache.changed_matches() == (PrefixMatch(0, 2, 0),)


def test_only_the_oldest_are_matched() -> None:
    cache = new_cache(4)
    watch(cache, *["aabbc"] * (WINDOW + 2))
    assert len(cache.changed_matches()) == WINDOW
    compute(cache, "aabb")
    assert [match.request_id for match in cache.changed_matches()] == list(range(WINDOW))
    cache.unwatch(3)
    assert WINDOW in {match.request_id for match in cache.changed_matches()}


def test_watching_holds_no_pages() -> None:
    cache = new_cache(4)
    compute(cache, "aabbcc")
    watch(cache, "aabx")
    cache.changed_matches()
    assert cache.num_available_pages == 4
    assert cache.flush() == 3
    cache.check()
    assert cache.changed_matches() == (PrefixMatch(0, 0, 0),)


def test_a_match_that_was_evicted_and_computed_again_is_found() -> None:
    cache = new_cache(4)
    compute(cache, "aabbcc")
    watch(cache, "aabbccd")
    cache.changed_matches()
    cache.flush()
    release(cache, granted(cache, "aabb"), "aabb")
    assert cache.changed_matches() == (PrefixMatch(0, 4, 0),)
