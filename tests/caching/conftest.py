"""What the tests of the caching package share: caches whose page size is 2, and short ways to say what a scheduler says."""

from __future__ import annotations

from runtime.caching.page_cache import PageCache
from runtime.messages import PagesGranted, Release

PAGE_SIZE = 2


def new_cache(num_pages: int, *, disable_radix_cache: bool = False) -> PageCache:
    return PageCache(num_pages, PAGE_SIZE, disable_radix_cache=disable_radix_cache)


def tokens(text: str) -> tuple[int, ...]:
    """One token per letter, so that `"aabb"` reads as two pages."""
    return tuple(ord(letter) for letter in text)


def granted(cache: PageCache, text: str, request_id: int = 0) -> PagesGranted:
    """Reserve, where a denial fails the test."""
    answer = cache.reserve(request_id, tokens(text))
    assert isinstance(answer, PagesGranted)
    return answer


def release(cache: PageCache, grant: PagesGranted, text: str, fence_step: int = -1) -> None:
    cache.release(Release(grant.lease_id, tokens(text), fence_step))


def compute(cache: PageCache, text: str) -> PagesGranted:
    """A whole request that runs and ends, and leaves its full pages in the tree."""
    grant = granted(cache, text)
    release(cache, grant, text)
    return grant


def num_cached_tokens(cache: PageCache, text: str) -> int:
    """What a request with this prompt would find; takes nothing."""
    grant = granted(cache, text)
    release(cache, grant, "")
    return grant.num_cached_tokens
