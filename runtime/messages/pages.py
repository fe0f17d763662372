"""Scheduler ⇄ Cache: leases of pages, and what waiting requests would find cached."""

from __future__ import annotations

import msgspec

from runtime.messages.message import Message


class ReservePages(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: pages for all of `token_ids`, reusing the longest cached prefix.

    The last token is never taken from the cache, since its logits are needed.
    """

    request_id: int
    token_ids: tuple[int, ...]
    max_cached_tokens: int | None = None
    """Reuse no more than these: the outputs of the later tokens are wanted, so they have to be computed."""


class PagesGranted(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: `pages` is the whole page table of the sequence, cached pages first."""

    request_id: int
    lease_id: int
    pages: tuple[int, ...]
    num_cached_tokens: int
    num_available_pages: int
    """Free and evictable pages that are left."""


class PagesDenied(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: not enough free and evictable pages; nothing was taken."""

    request_id: int
    num_available_pages: int


class Grow(msgspec.Struct, frozen=True):
    """Ask for `num_pages` more at the end of a lease's page table."""

    lease_id: int
    num_pages: int


class Publish(msgspec.Struct, frozen=True):
    """The first `num_tokens` of the lease's prompt are computed: full pages may be shared from now on."""

    lease_id: int
    num_tokens: int


class Release(msgspec.Struct, frozen=True):
    """End a lease. `token_ids` are all tokens whose keys and values are computed (prompt and output).

    Pages that are not kept in the tree are reissued only after step `fence_step` has retired.
    """

    lease_id: int
    token_ids: tuple[int, ...]
    fence_step: int


class SettleStep(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: everything that changed since the last one, applied in the order publishes, releases, grows."""

    step_id: int
    retired_step: int
    """All steps up to and including this one are done on the device."""
    publishes: tuple[Publish, ...] = ()
    releases: tuple[Release, ...] = ()
    grows: tuple[Grow, ...] = ()


class Grown(msgspec.Struct, frozen=True):
    lease_id: int
    pages: tuple[int, ...]


class StepSettled(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: the answer to `SettleStep`. A lease in `denied` got nothing."""

    step_id: int
    grown: tuple[Grown, ...]
    denied: tuple[int, ...]
    num_available_pages: int


class WatchPrefix(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: tell me how much of this waiting request is cached, now and when it changes."""

    request_id: int
    token_ids: tuple[int, ...]


class UnwatchPrefix(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: the request left the queue."""

    request_id: int


class PrefixMatch(msgspec.Struct, frozen=True):
    request_id: int
    num_cached_tokens: int
    tree_order: int
    """Position of the request in a depth-first walk that visits the heaviest subtree first (dfs-weight)."""


class PrefixMatched(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: the watched requests whose match changed."""

    matches: tuple[PrefixMatch, ...]
