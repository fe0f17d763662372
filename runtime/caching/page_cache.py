"""The page cache: every page of the KV cache, and the leases of the running requests on them.

Owns the pool, the radix tree and the leases. Takes the messages of the scheduler and returns the answers to them; the
actor around it does the sending. Pure: no clock, no chance, no I/O, so the same messages give the same answers.

Invariant (`check`): free + cached + leased + fenced pages are all pages, and each page has exactly one owner.
"""

from __future__ import annotations

from collections import Counter

from runtime.caching.lease import Lease
from runtime.caching.pool import PagePool, expect
from runtime.caching.prefix_watch import PrefixWatch
from runtime.caching.radix import Node, RadixTree
from runtime.errors import ConfigError
from runtime.messages import Grow, Grown, PagesDenied, PagesGranted, PoolState, PrefixMatch, Release, SettleStep, StepSettled


class PageCache:
    """`num_pages` pages of `page_size` tokens. A request that is not known any more is counted in `num_late` and ignored."""

    def __init__(self, num_pages: int, page_size: int, *, disable_radix_cache: bool = False) -> None:
        if num_pages < 1 or page_size < 1:
            raise ConfigError(f"the KV cache needs at least one page of one token, not {num_pages} pages of {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_late = 0
        """Answers that came too late: publishes, grows and releases of leases that have ended."""
        self._is_sharing = not disable_radix_cache
        self._pool = PagePool(num_pages)
        self._tree = RadixTree(page_size)
        self._watch = PrefixWatch(self._tree)
        self._leases: dict[int, Lease] = {}
        self._num_granted = 0

    @property
    def num_available_pages(self) -> int:
        """Free and evictable pages: what a grant or growth could take now."""
        return self._pool.num_free_pages + self._tree.num_evictable_pages

    @property
    def num_leases(self) -> int:
        return len(self._leases)

    def reserve(
        self, request_id: int, token_ids: tuple[int, ...], max_cached_tokens: int | None = None
    ) -> PagesGranted | PagesDenied:
        """A new lease on pages for all of `token_ids`, cached ones first; or nothing, if there are not enough.

        Of the cached tokens no more than `max_cached_tokens` are reused.
        """
        num_pages = self._max_match_pages(token_ids)
        if max_cached_tokens is not None:
            num_pages = min(num_pages, max_cached_tokens // self.page_size)
        node = self._tree.match(token_ids, num_pages)
        num_new_pages = -(-len(token_ids) // self.page_size) - node.num_path_pages
        if num_new_pages > self.num_available_pages - self._num_unlocked_pages(node):
            return PagesDenied(request_id=request_id, num_available_pages=self.num_available_pages)
        self._num_granted += 1
        lease = Lease(self._num_granted, token_ids, self._tree, node, self._pool)
        self._leases[lease.lease_id] = lease
        lease.grow(self._take(num_new_pages))
        return PagesGranted(
            request_id=request_id,
            lease_id=lease.lease_id,
            pages=lease.pages,
            num_cached_tokens=node.num_path_pages * self.page_size,
            num_available_pages=self.num_available_pages,
        )

    def settle(self, step: SettleStep) -> StepSettled:
        """Retire, publish, release and grow, in this order. A lease that is not known is denied its growth."""
        self._pool.retire(step.retired_step)
        for publish in step.publishes:
            self.publish(publish.lease_id, publish.num_tokens)
        for release in step.releases:
            self.release(release)
        grown, denied = self.grow(step.grows)
        return StepSettled(step_id=step.step_id, grown=grown, denied=denied, num_available_pages=self.num_available_pages)

    def publish(self, lease_id: int, num_tokens: int) -> None:
        """Share the full pages of the first `num_tokens` of the lease's prompt."""
        lease = self._leases.get(lease_id)
        if lease is None:
            self.num_late += 1
        elif self._is_sharing:
            lease.publish(num_tokens)

    def release(self, release: Release) -> None:
        """End a lease; the full pages of its `token_ids` stay in the tree, the others are free behind the fence."""
        lease = self._leases.pop(release.lease_id, None)
        if lease is None:
            self.num_late += 1
            return
        lease.release(release.token_ids if self._is_sharing else (), release.fence_step)

    def grow(self, grows: tuple[Grow, ...]) -> tuple[tuple[Grown, ...], tuple[int, ...]]:
        """New pages for each lease, or its id among the denied; the first come is the first served."""
        granted: list[tuple[Lease, int]] = []
        denied: list[int] = []
        num_left = self.num_available_pages
        for grow in grows:
            lease = self._leases.get(grow.lease_id)
            if lease is None:
                self.num_late += 1
            if lease is None or grow.num_pages > num_left:
                denied.append(grow.lease_id)
            else:
                num_left -= grow.num_pages
                granted.append((lease, grow.num_pages))
        return self._hand_out(granted), tuple(denied)

    def flush(self) -> int:
        """Drop every page that is cached and not in use; returns how many."""
        pages = self._tree.evict(self._tree.num_evictable_pages)
        self._pool.give_back(pages)
        return len(pages)

    def watch(self, request_id: int, token_ids: tuple[int, ...]) -> None:
        """Report on a waiting request in `changed_matches` from now on."""
        self._watch.watch(request_id, token_ids, self._max_match_pages(token_ids))

    def unwatch(self, request_id: int) -> None:
        if not self._watch.unwatch(request_id):
            self.num_late += 1

    def changed_matches(self) -> tuple[PrefixMatch, ...]:
        """The watched requests whose match is not as it was told last. Cheap if nothing changed; once a batch is enough."""
        return self._watch.refresh()

    def state(self) -> PoolState:
        pool = self._pool
        num_cached_pages = self._tree.num_evictable_pages
        return PoolState(
            num_pages=self.num_pages,
            num_free_pages=pool.num_free_pages,
            num_cached_pages=num_cached_pages,
            num_leased_pages=self.num_pages - pool.num_free_pages - num_cached_pages - pool.num_fenced_pages,
            num_fenced_pages=pool.num_fenced_pages,
            num_leases=len(self._leases),
            page_size=self.page_size,
        )

    def _max_match_pages(self, token_ids: tuple[int, ...]) -> int:
        """The last token is always computed, since its logits are needed."""
        return max(0, len(token_ids) - 1) // self.page_size if self._is_sharing else 0

    def _num_unlocked_pages(self, node: Node) -> int:
        """Pages on the path to `node` that a lock on it would keep from eviction."""
        return sum(len(place.pages) for place in self._tree.path(node) if place.num_locks == 0)

    def _take(self, num_pages: int) -> list[int]:
        """Pages from the pool, after eviction of as many as are missing there."""
        num_missing = num_pages - self._pool.num_free_pages
        if num_missing > 0:
            self._pool.give_back(self._tree.evict(num_missing))
        return self._pool.take(num_pages)

    def _hand_out(self, granted: list[tuple[Lease, int]]) -> tuple[Grown, ...]:
        pages = self._take(sum(num_pages for _, num_pages in granted))
        grown: list[Grown] = []
        start = 0
        for lease, num_pages in granted:
            own = tuple(pages[start : start + num_pages])
            start += num_pages
            lease.grow(own)
            grown.append(Grown(lease.lease_id, own))
        return tuple(grown)

    def check(self) -> None:
        """For tests and the simulator. Raises `AssertionError` that says which invariant does not hold."""
        issued = self._pool.check()
        cached = self._tree.check()
        private = [page for lease in self._leases.values() for page in lease.private_pages]
        owned = cached + private
        twice = sorted(page for page, num_owners in Counter(owned).items() if num_owners > 1)
        expect(not twice, f"pages {twice} have more than one owner")
        expect(set(owned) <= set(issued), f"pages {sorted(set(owned) - set(issued))} are in use but in the pool")
        expect(set(issued) <= set(owned), f"pages {sorted(set(issued) - set(owned))} are lost")
        for lease in self._leases.values():
            lease.check()
        self._check_locks()
        self._check_state(num_locked=len(cached) - self._tree.num_evictable_pages, num_private=len(private))

    def _check_locks(self) -> None:
        passing: Counter[Node] = Counter(node for lease in self._leases.values() for node in self._tree.path(lease.node))
        for node in self._tree.walk():
            expect(node.num_locks == passing[node], f"{node.num_locks} locks on a node that {passing[node]} leases pass")

    def _check_state(self, num_locked: int, num_private: int) -> None:
        state = self.state()
        num_leased = num_locked + num_private
        expect(state.num_leased_pages == num_leased, f"{num_leased} pages are leased, counted {state.num_leased_pages}")
        expect(min(state.num_free_pages, state.num_cached_pages, state.num_fenced_pages) >= 0, f"negative count in {state}")
