from __future__ import annotations

import pytest

from runtime.caching.pool import OwnershipError
from runtime.caching.radix import Node, RadixTree
from tests.caching.conftest import PAGE_SIZE, tokens


def add(tree: RadixTree, text: str, first_page: int) -> Node:
    """Cache the pages of `text` that are not cached, under page ids from `first_page` on; they stay locked."""
    num_pages = len(text) // PAGE_SIZE
    node = tree.match(tokens(text), num_pages)
    num_missing = num_pages - node.num_path_pages
    leaf = tree.attach(node, tokens(text), list(range(first_page, first_page + num_missing)))
    tree.lock(leaf)
    return leaf


def matched(tree: RadixTree, text: str) -> list[int]:
    return tree.path_pages(tree.match(tokens(text), len(text) // PAGE_SIZE))


def test_an_empty_tree_matches_nothing() -> None:
    tree = RadixTree(PAGE_SIZE)
    assert tree.match(tokens("aabb"), 2) is tree.root
    assert tree.path_pages(tree.root) == []
    assert tree.check() == []


def test_matches_whole_pages_only() -> None:
    tree = RadixTree(PAGE_SIZE)
    add(tree, "aabbcc", 10)
    assert matched(tree, "aabbcc") == [10, 11, 12]
    assert matched(tree, "aabbcx") == [10, 11]
    assert matched(tree, "aabxcc") == [10]
    assert matched(tree, "axbbcc") == []
    tree.check()


def test_a_limit_cuts_the_match() -> None:
    tree = RadixTree(PAGE_SIZE)
    add(tree, "aabbcc", 10)
    assert tree.path_pages(tree.match(tokens("aabbcc"), 2)) == [10, 11]


def test_split_keeps_pages_locks_and_places() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aabbccdd", 10)
    upper = tree.match(tokens("aabb"), 2)
    assert upper is not leaf
    assert leaf.parent is upper
    assert (upper.pages, leaf.pages) == ([10, 11], [12, 13])
    assert (upper.num_path_pages, leaf.num_path_pages) == (2, 4)
    assert (upper.num_locks, leaf.num_locks) == (1, 1)
    tree.unlock(leaf)
    assert tree.num_evictable_pages == 4
    tree.check()


def test_a_branch_shares_its_prefix() -> None:
    tree = RadixTree(PAGE_SIZE)
    left, right = add(tree, "aabbcc", 10), add(tree, "aabbdd", 20)
    assert matched(tree, "aabbdd") == [10, 11, 20]
    shared = left.parent
    assert shared is right.parent
    assert shared is not None
    assert shared.num_locks == 2
    tree.unlock(left)
    assert tree.num_evictable_pages == 1
    assert sorted(tree.check()) == [10, 11, 12, 20]


def test_a_match_can_go_on_from_a_place() -> None:
    tree = RadixTree(PAGE_SIZE)
    add(tree, "aabbcc", 10)
    start = tree.match(tokens("aa"), 1)
    assert tree.path_pages(tree.match(tokens("aabbcc"), 3, start)) == [10, 11, 12]


def test_cached_tokens_can_not_be_attached_again() -> None:
    tree = RadixTree(PAGE_SIZE)
    add(tree, "aabb", 10)
    with pytest.raises(OwnershipError, match="page 30 is a duplicate of page 10"):
        tree.attach(tree.root, tokens("aacc"), [30, 31])


def test_evicts_the_longest_unused_first() -> None:
    tree = RadixTree(PAGE_SIZE)
    first, second, third = add(tree, "aa", 1), add(tree, "bb", 2), add(tree, "cc", 3)
    for leaf in (second, third, first):
        tree.unlock(leaf)
    tree.lock(second)
    tree.unlock(second)
    assert [tree.evict(1) for _ in range(3)] == [[3], [1], [2]]


def test_evicts_a_leaf_from_its_end() -> None:
    tree = RadixTree(PAGE_SIZE)
    tree.unlock(add(tree, "aabbccdd", 10))
    assert tree.evict(1) == [13]
    assert sorted(tree.evict(2)) == [11, 12]
    assert matched(tree, "aabbccdd") == [10]
    tree.check()


def test_a_parent_is_evicted_after_its_children_and_by_its_own_use() -> None:
    tree = RadixTree(PAGE_SIZE)
    tree.unlock(add(tree, "aabb", 1))
    tree.unlock(add(tree, "cc", 3))
    upper = tree.match(tokens("aa"), 1)
    tree.lock(upper)
    tree.unlock(upper)
    assert [tree.evict(1) for _ in range(3)] == [[2], [3], [1]]
    assert tree.check() == []


def test_a_parent_that_became_a_leaf_keeps_its_turn() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aabb", 1)
    tree.match(tokens("aa"), 1)
    tree.unlock(leaf)
    tree.unlock(add(tree, "cc", 3))
    assert [tree.evict(1) for _ in range(3)] == [[2], [1], [3]]


def test_locked_pages_are_not_evicted() -> None:
    tree = RadixTree(PAGE_SIZE)
    tree.unlock(add(tree, "aabbcc", 10))
    tree.lock(tree.match(tokens("aabb"), 2))
    assert tree.evict(1) == [12]
    with pytest.raises(OwnershipError, match="0 evictable"):
        tree.evict(1)


def test_an_evicted_node_is_no_place_in_the_tree() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aabb", 10)
    tree.unlock(leaf)
    tree.evict(1)
    assert tree.contains(leaf)
    tree.evict(1)
    assert not tree.contains(leaf)
    assert tree.contains(tree.root)


def test_an_unlock_needs_a_lock() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aa", 10)
    tree.unlock(leaf)
    with pytest.raises(OwnershipError, match="more often than locked"):
        tree.unlock(leaf)


def test_the_version_tells_of_changes_of_content_only() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aabb", 10)
    version = tree.version
    tree.unlock(leaf)
    tree.match(tokens("aa"), 1)
    tree.evict(0)
    assert tree.version == version
    tree.evict(1)
    assert tree.version > version


def test_a_leaf_in_constant_use_does_not_fill_the_queue() -> None:
    tree = RadixTree(PAGE_SIZE)
    leaf = add(tree, "aa", 10)
    for _ in range(2_000):
        tree.unlock(leaf)
        tree.lock(leaf)
    tree.unlock(leaf)
    assert len(tree._queue) < 100
    tree.check()
    assert tree.evict(1) == [10]


def test_the_check_finds_a_miscount() -> None:
    tree = RadixTree(PAGE_SIZE)
    tree.unlock(add(tree, "aabb", 10))
    tree.num_evictable_pages += 1
    with pytest.raises(AssertionError, match="2 evictable, counted 3"):
        tree.check()
