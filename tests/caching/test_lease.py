from __future__ import annotations

import pytest

from runtime.caching.lease import Lease
from runtime.caching.pool import OwnershipError, PagePool
from runtime.caching.radix import RadixTree
from tests.caching.conftest import PAGE_SIZE, tokens


class Pages:
    """A pool and a tree, and leases on them that are granted without eviction."""

    def __init__(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.tree = RadixTree(PAGE_SIZE)

    def lease(self, text: str) -> Lease:
        node = self.tree.match(tokens(text), (len(text) - 1) // PAGE_SIZE)
        lease = Lease(1, tokens(text), self.tree, node, self.pool)
        lease.grow(self.pool.take(-(-len(text) // PAGE_SIZE) - node.num_path_pages))
        return lease


def test_a_released_lease_leaves_its_full_pages_and_frees_the_rest() -> None:
    pages = Pages(4)
    lease = pages.lease("aabbc")
    table = lease.pages
    lease.release(tokens("aabbc"), fence_step=-1)
    assert pages.tree.check() == list(table[:2])
    assert pages.pool.num_free_pages == 2
    assert pages.tree.num_evictable_pages == 2


@pytest.mark.parametrize("use", ["publish", "grow", "release"])
def test_a_released_lease_can_not_be_used(use: str) -> None:
    pages = Pages(4)
    lease = pages.lease("aab")
    lease.release(tokens("aab"), fence_step=-1)
    with pytest.raises(OwnershipError, match="lease 1 was used after its release"):
        {"publish": lambda: lease.publish(2), "grow": lambda: lease.grow([]), "release": lambda: lease.release((), -1)}[use]()
    assert pages.pool.num_free_pages == 3


def test_published_pages_are_shared_while_the_lease_runs() -> None:
    pages = Pages(6)
    first = pages.lease("aabbccd")
    first.publish(5)
    second = pages.lease("aabbccx")
    assert second.pages[:2] == first.pages[:2]
    assert len(set(first.pages + second.pages)) == 6
    assert pages.tree.num_evictable_pages == 0


def test_publishing_goes_no_further_than_the_prompt() -> None:
    pages = Pages(4)
    lease = pages.lease("aab")
    lease.grow(pages.pool.take(2))
    lease.publish(8)
    assert pages.tree.check() == list(lease.pages[:1])


def test_publishing_less_than_before_changes_nothing() -> None:
    pages = Pages(4)
    lease = pages.lease("aabbcc")
    lease.publish(6)
    lease.publish(2)
    lease.check()
    assert lease.private_pages == []


def test_a_lease_that_duplicates_cached_pages_holds_no_more_than_its_own() -> None:
    pages = Pages(6)
    first, second = pages.lease("aabb"), pages.lease("aabbccdd")
    first.publish(4)
    second.publish(6)
    second.check()
    assert second.private_pages == list(second.pages)
    first.release(tokens("aabb"), fence_step=-1)
    assert pages.tree.num_evictable_pages == 2, "the duplicates keep the cached pages from eviction"


def test_what_follows_duplicates_is_shared_at_the_end() -> None:
    pages = Pages(6)
    first, second = pages.lease("aabb"), pages.lease("aabbccdd")
    first.publish(4)
    duplicates = set(second.pages[:2])
    second.release(tokens("aabbccdd"), fence_step=-1)
    assert pages.tree.path_pages(pages.tree.match(tokens("aabbccdd"), 4)) == [*first.pages, *second.pages[2:]]
    assert set(pages.pool.take(2)) == duplicates


def test_private_pages_wait_behind_the_fence() -> None:
    pages = Pages(3)
    pages.lease("aab").release(tokens("aab"), fence_step=4)
    assert (pages.pool.num_free_pages, pages.pool.num_fenced_pages) == (1, 1)
    pages.pool.retire(4)
    assert pages.pool.num_free_pages == 2


def test_a_sequence_that_computed_nothing_leaves_nothing() -> None:
    pages = Pages(3)
    pages.lease("aab").release((), fence_step=-1)
    assert pages.pool.num_free_pages == 3
    assert pages.tree.check() == []


def test_output_is_shared_too() -> None:
    pages = Pages(4)
    lease = pages.lease("aab")
    lease.grow(pages.pool.take(1))
    lease.release(tokens("aabxyz"), fence_step=-1)
    assert pages.tree.match(tokens("aabxyz"), 3).num_path_pages == 3


def test_tokens_of_another_sequence_are_refused() -> None:
    pages = Pages(4)
    lease = pages.lease("aabb")
    with pytest.raises(OwnershipError, match="tokens of another sequence"):
        lease.release(tokens("aaxb"), fence_step=-1)
    with pytest.raises(OwnershipError, match="more tokens than its pages hold"):
        lease.release(tokens("aabbc"), fence_step=-1)
    lease.check()


def test_the_check_finds_a_page_table_that_is_not_the_path() -> None:
    pages = Pages(4)
    lease = pages.lease("aabb")
    lease.publish(4)
    lease.node.pages[0], lease.node.pages[1] = lease.node.pages[1], lease.node.pages[0]
    with pytest.raises(AssertionError, match="instead of its own page"):
        lease.check()
