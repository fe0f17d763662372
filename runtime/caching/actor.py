"""The cache actor: a thin shell around `PageCache`.

Owns nothing else. Receives ReservePages, SettleStep, WatchPrefix and UnwatchPrefix from the scheduler, and InspectPool and
FlushCache from whoever asks; sends PagesGranted or PagesDenied, StepSettled and, once per batch of messages, PrefixMatched.
Invariant: each ReservePages and each SettleStep gets exactly one answer, in the order in which they came.
"""

from __future__ import annotations

from runtime.actors.actor import Actor, Ref, receives
from runtime.caching.page_cache import PageCache
from runtime.messages import (
    CacheFlushed,
    FlushCache,
    InspectPool,
    PoolState,
    PrefixMatched,
    ReservePages,
    SettleStep,
    UnwatchPrefix,
    WatchPrefix,
)


class Cache(Actor):
    """Needs a new `PageCache` at each start of the engine group, since the leases in an old one have no holders."""

    def __init__(self, page_cache: PageCache, scheduler: Ref) -> None:
        self._page_cache = page_cache
        self._scheduler = scheduler

    @receives(ReservePages)
    async def reserve_pages(self, message: ReservePages) -> None:
        self._scheduler.tell(self._page_cache.reserve(message.request_id, message.token_ids, message.max_cached_tokens))

    @receives(SettleStep)
    async def settle_step(self, message: SettleStep) -> None:
        self._scheduler.tell(self._page_cache.settle(message))

    @receives(WatchPrefix)
    async def watch_prefix(self, message: WatchPrefix) -> None:
        self._page_cache.watch(message.request_id, message.token_ids)

    @receives(UnwatchPrefix)
    async def unwatch_prefix(self, message: UnwatchPrefix) -> None:
        self._page_cache.unwatch(message.request_id)

    @receives(InspectPool)
    async def inspect_pool(self, message: InspectPool) -> PoolState:
        return self._page_cache.state()

    @receives(FlushCache)
    async def flush_cache(self, message: FlushCache) -> CacheFlushed:
        num_freed_pages = self._page_cache.flush()
        return CacheFlushed(num_freed_pages=num_freed_pages, num_leases=self._page_cache.num_leases)

    async def after_batch(self) -> None:
        """Tell the scheduler once how the batch changed what is cached of the waiting requests."""
        matches = self._page_cache.changed_matches()
        if matches:
            self._scheduler.tell(PrefixMatched(matches=matches))
