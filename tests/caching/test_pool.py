from __future__ import annotations

import pytest

from runtime.caching.pool import OwnershipError, PagePool


def test_every_page_is_issued_once() -> None:
    pool = PagePool(5)
    assert sorted(pool.take(2) + pool.take(3)) == [0, 1, 2, 3, 4]
    assert pool.num_free_pages == 0
    assert pool.check() == [0, 1, 2, 3, 4]


def test_taking_more_than_is_free_takes_nothing() -> None:
    pool = PagePool(2)
    with pytest.raises(OwnershipError, match="3 pages wanted, 2 free"):
        pool.take(3)
    with pytest.raises(OwnershipError):
        pool.take(-1)
    assert pool.check() == []


def test_a_page_is_given_back_once() -> None:
    pool = PagePool(3)
    pages = pool.take(2)
    pool.give_back(pages)
    with pytest.raises(OwnershipError, match="twice"):
        pool.give_back(pages[:1])
    with pytest.raises(OwnershipError, match="twice"):
        pool.give_back(pages[1:], fence_step=7)
    assert pool.num_free_pages == 3


def test_a_fenced_page_can_not_be_given_back_again() -> None:
    pool = PagePool(1)
    pages = pool.take(1)
    pool.give_back(pages, fence_step=4)
    with pytest.raises(OwnershipError, match="twice"):
        pool.give_back(pages)


def test_a_fence_holds_until_its_step_has_retired() -> None:
    pool = PagePool(4)
    pages = pool.take(4)
    pool.give_back(pages[:1], fence_step=7)
    pool.give_back(pages[1:3], fence_step=6)
    pool.give_back(pages[3:], fence_step=7)
    assert (pool.num_free_pages, pool.num_fenced_pages) == (0, 4)
    pool.retire(5)
    assert pool.num_free_pages == 0
    pool.retire(6)
    assert sorted(pool.take(2)) == sorted(pages[1:3])
    pool.retire(7)
    assert (pool.num_free_pages, pool.num_fenced_pages) == (2, 0)
    pool.check()


def test_no_fence_for_a_step_that_has_retired() -> None:
    pool = PagePool(1)
    pool.retire(3)
    pool.give_back(pool.take(1), fence_step=3)
    assert pool.num_free_pages == 1


def test_an_older_step_does_not_bring_fences_back() -> None:
    pool = PagePool(1)
    pool.retire(9)
    pool.retire(2)
    pool.give_back(pool.take(1), fence_step=5)
    assert pool.num_free_pages == 1
    pool.check()
