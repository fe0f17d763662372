"""One sequence in the scheduler's care: what it asked for, and how far it is.

There is no prefill and no decode here: `num_planned_tokens` of `length` tokens have been planned, and steps close the gap.
`length` counts what is known and what is sampled by a step in flight, so it runs ahead of `output_ids` by those samples.
"""

from __future__ import annotations

from enum import Enum

from runtime.messages import Admit
from runtime.scheduling.gathering import gathering_for

HASH_STRIDE_PAGES = 64


class Stage(Enum):
    """Where a request is: it is in exactly one of these."""

    WAITING = "waiting"
    RESERVING = "reserving"
    RUNNING = "running"
    ENDED = "ended"


class Request:
    """Mutable, owned by `Scheduling`; compared by identity.

    `num_target_tokens` is how many tokens have to be computed in all: the last one that is sampled never is.
    """

    __slots__ = (
        "arrival",
        "arrived",
        "capacity_tokens",
        "followers",
        "gathering",
        "grammar_key",
        "is_front",
        "is_opened",
        "is_queued",
        "is_text_open",
        "is_watched",
        "last_step",
        "lease_id",
        "length",
        "max_new_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_hit_tokens",
        "num_in_flight_rows",
        "num_planned_tokens",
        "num_prompt_tokens",
        "num_publishable_tokens",
        "num_published_tokens",
        "num_reused_tokens",
        "num_target_tokens",
        "output_ids",
        "page_size",
        "pages",
        "params",
        "priority",
        "rank",
        "request_id",
        "slot",
        "stage",
        "stop_ids",
        "stride_hashes",
        "text",
        "token_ids",
        "tree_order",
    )

    def __init__(self, admit: Admit, *, arrival: int, max_new_tokens: int, stop_ids: frozenset[int], page_size: int) -> None:
        self.request_id = admit.request_id
        self.params = admit.params
        self.text = admit.text
        self.priority = admit.priority
        self.arrival = arrival
        self.arrived = admit.arrived
        self.grammar_key = admit.grammar_key
        self.gathering = gathering_for(admit)
        self.max_new_tokens = max_new_tokens
        self.stop_ids = stop_ids
        self.page_size = page_size

        self.token_ids = admit.token_ids  # the prompt; after a retraction also what was generated before it
        self.num_prompt_tokens = len(admit.token_ids)
        self.num_target_tokens = self.num_prompt_tokens + max(max_new_tokens - 1, 0)
        self.output_ids: list[int] = []
        self.stage = Stage.WAITING
        self.is_text_open = False

        # in the queue
        self.rank: tuple[float, ...] = ()
        self.is_queued = False
        self.is_front = False
        self.is_watched = False
        self.num_hit_tokens = 0  # of the prefix, believed to be cached
        self.tree_order = 0
        self.stride_hashes = [0]  # of the first 0, 1, 2, … strides
        self.followers: list[tuple[int, Request]] = []  # (shared pages, request held back)

        # in the batch
        self.lease_id = -1
        self.slot = -1
        self.is_opened = False
        self.pages: tuple[int, ...] = ()  # not told to the executor yet
        self.capacity_tokens = 0
        self.length = self.num_prompt_tokens
        self.num_planned_tokens = 0
        self.num_computed_tokens = 0
        self.num_published_tokens = 0
        self.num_publishable_tokens = 0
        self.num_in_flight_rows = 0
        self.num_reused_tokens = 0  # from the cache, in this run
        self.num_cached_tokens = -1  # from the cache, in the first run
        self.last_step = 0

    @property
    def has_begun(self) -> bool:
        """Whether it has held pages: a retracted one has."""
        return self.num_cached_tokens >= 0

    @property
    def num_known_tokens(self) -> int:
        """Prompt and what was generated; a sample in flight is not known yet."""
        return self.num_prompt_tokens + len(self.output_ids)

    @property
    def num_wanted_pages(self) -> int:
        """How many pages to ask for when one is needed: a grammar may have added many tokens at once."""
        num_tokens = min(self.length, self.num_target_tokens) - self.capacity_tokens
        return max(-(-num_tokens // self.page_size), 1)

    @property
    def max_cached_tokens(self) -> int | None:
        """The cache has no outputs of the tokens after these, and they are wanted; None: it may have all."""
        return None if self.gathering is None else self.gathering.max_cached_tokens

    @property
    def num_reserved_tokens(self) -> int:
        """What the pages hold that all known tokens need."""
        return -(-self.num_known_tokens // self.page_size) * self.page_size

    @property
    def num_own_pages(self) -> int:
        """Pages that were new when the run began or came later: at least one, since the last token is never reused."""
        return (self.capacity_tokens - self.num_reused_tokens) // self.page_size

    @property
    def num_shareable_pages(self) -> int:
        """Full pages that may come from the cache: the last token never does, since its logits are needed."""
        most, last = self.max_cached_tokens, len(self.token_ids) - 1
        return (last if most is None else min(most, last)) // self.page_size

    @property
    def num_remaining_tokens(self) -> int:
        """Tokens that may still be generated."""
        return self.max_new_tokens - len(self.output_ids)

    def known_ids(self) -> tuple[int, ...]:
        """Prompt and everything generated so far."""
        return self.token_ids + tuple(self.output_ids[len(self.token_ids) - self.num_prompt_tokens :])

    def page_hash(self, num_pages: int) -> int:
        """Hash of the first `num_pages` (≥ 1) full pages of tokens, which costs as much as hashing one stride."""
        hashes, stride_tokens = self.stride_hashes, HASH_STRIDE_PAGES * self.page_size
        num_strides = num_pages // HASH_STRIDE_PAGES
        while len(hashes) <= num_strides:
            start = (len(hashes) - 1) * stride_tokens
            hashes.append(hash((hashes[-1], self.token_ids[start : start + stride_tokens])))
        return hash((hashes[num_strides], self.token_ids[num_strides * stride_tokens : num_pages * self.page_size]))

    def begin_run(self, lease_id: int, pages: tuple[int, ...], num_cached_tokens: int) -> None:
        """The cache granted pages for all of `token_ids`, of which the first `num_cached_tokens` are computed already."""
        self.stage = Stage.RUNNING
        self.lease_id = lease_id
        self.pages = pages
        self.capacity_tokens = len(pages) * self.page_size
        self.is_opened = False
        self.length = len(self.token_ids)
        self.num_planned_tokens = self.num_computed_tokens = self.num_published_tokens = num_cached_tokens
        self.num_reused_tokens = num_cached_tokens
        self.num_publishable_tokens = self.length // self.page_size * self.page_size
        if self.num_cached_tokens < 0:
            self.num_cached_tokens = num_cached_tokens

    def grow(self, pages: tuple[int, ...]) -> None:
        self.pages += pages
        self.capacity_tokens += len(pages) * self.page_size
