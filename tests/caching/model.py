"""A page cache that is too simple to be wrong, for comparison: one entry per cached page, found by its whole prefix.

It knows nothing of nodes, splits or queues. Everything that `PageCache` promises follows from it: what is granted and denied,
under which pages, what is evicted, and what is free. Only which of the free pages is issued is left open.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass
class CachedPage:
    page: int
    num_locks: int = 1
    last_used: int = 0


@dataclass
class ModelLease:
    prompt: Tokens
    pages: list[int]
    locked: list[Tokens]
    """Prefixes whose pages it keeps in the cache."""


@dataclass
class Model:
    num_pages: int
    page_size: int
    is_sharing: bool
    cached: dict[Tokens, CachedPage] = field(default_factory=dict)
    leases: dict[int, ModelLease] = field(default_factory=dict)
    fenced: dict[int, int] = field(default_factory=dict)
    """The fence step of each fenced page."""
    computed: dict[int, Tokens] = field(default_factory=dict)
    """The prefix whose keys and values each page holds."""
    retired_step: int = -1
    num_uses: int = 0

    def prefixes(self, tokens: Tokens, num_tokens: int) -> list[Tokens]:
        """The first `num_tokens` of `tokens`, cut at each full page."""
        return [tokens[:end] for end in range(self.page_size, num_tokens + 1, self.page_size)]

    def match(self, tokens: Tokens) -> list[Tokens]:
        """The cached prefixes that a request with this prompt finds."""
        found = []
        for prefix in self.prefixes(tokens, len(tokens) - 1 if self.is_sharing else 0):
            if prefix not in self.cached:
                break
            found.append(prefix)
        return found

    def private(self, lease: ModelLease) -> list[int]:
        shared = {self.cached[prefix].page for prefix in lease.locked}
        return [page for page in lease.pages if page not in shared]

    @property
    def num_evictable(self) -> int:
        return sum(entry.num_locks == 0 for entry in self.cached.values())

    @property
    def num_free(self) -> int:
        num_private = sum(len(self.private(lease)) for lease in self.leases.values())
        return self.num_pages - len(self.cached) - num_private - len(self.fenced)

    @property
    def num_available(self) -> int:
        return self.num_free + self.num_evictable

    def can_reserve(self, tokens: Tokens) -> bool:
        found = self.match(tokens)
        num_kept = sum(self.cached[prefix].num_locks == 0 for prefix in found)
        return self.num_new_pages(tokens) <= self.num_available - num_kept

    def num_new_pages(self, tokens: Tokens) -> int:
        return -(-len(tokens) // self.page_size) - len(self.match(tokens))

    def reserve(self, lease_id: int, tokens: Tokens, pages: Tokens) -> None:
        """Follow a grant of `pages`, and judge it."""
        found = self.match(tokens)
        num_new = self.num_new_pages(tokens)
        for prefix in found:
            self.cached[prefix].num_locks += 1
        self.make_room(num_new)
        assert len(pages) == len(found) + num_new
        assert pages[: len(found)] == tuple(self.cached[prefix].page for prefix in found)
        assert [self.computed[page] for page in pages[: len(found)]] == found, "a cached page holds other tokens"
        self.issue(pages[len(found) :])
        self.leases[lease_id] = ModelLease(tokens, list(pages), found)

    def grow(self, lease_id: int, pages: Tokens) -> None:
        """Follow the growth of a lease, and judge it."""
        self.issue(pages)
        self.leases[lease_id].pages += pages

    def issue(self, pages: Tokens) -> None:
        owned = {entry.page for entry in self.cached.values()}
        for lease in self.leases.values():
            owned |= set(lease.pages)
        assert len(set(pages)) == len(pages), "a page was issued twice at once"
        assert not owned & set(pages), "a page in use was issued"
        assert not self.fenced.keys() & set(pages), "a fenced page was issued"
        for page in pages:
            self.computed.pop(page, None)

    def make_room(self, num_wanted: int) -> None:
        while self.num_free < num_wanted:
            del self.cached[self.next_to_evict()]

    def next_to_evict(self) -> Tokens:
        parents = {prefix[: -self.page_size] for prefix in self.cached}
        leaves = [prefix for prefix, entry in self.cached.items() if entry.num_locks == 0 and prefix not in parents]
        return min(leaves, key=lambda prefix: self.cached[prefix].last_used)

    def share(self, lease: ModelLease, tokens: Tokens, num_tokens: int, *, is_last: bool) -> None:
        """The first `num_tokens` of `tokens` are computed. Pages that are cached already are passed only at the end."""
        prefixes = self.prefixes(tokens, num_tokens)
        for prefix, page in zip(prefixes, lease.pages, strict=False):
            assert self.computed.setdefault(page, prefix) == prefix, "a page was overwritten"
        for prefix, page in list(zip(prefixes, lease.pages, strict=False))[len(lease.locked) :]:
            if not self.is_sharing or (prefix in self.cached and not is_last):
                return
            if prefix in self.cached:
                self.cached[prefix].num_locks += 1
            else:
                self.cached[prefix] = CachedPage(page)
            lease.locked.append(prefix)

    def publish(self, lease_id: int, num_tokens: int) -> None:
        lease = self.leases[lease_id]
        self.share(lease, lease.prompt, min(num_tokens, len(lease.prompt)), is_last=False)

    def release(self, lease_id: int, tokens: Tokens, fence_step: int) -> None:
        lease = self.leases[lease_id]
        self.share(lease, tokens, len(tokens), is_last=True)
        private = self.private(self.leases.pop(lease_id))
        self.num_uses += 1
        for prefix in lease.locked:
            self.cached[prefix].num_locks -= 1
            self.cached[prefix].last_used = self.num_uses
        if fence_step > self.retired_step:
            self.fenced |= dict.fromkeys(private, fence_step)

    def retire(self, step: int) -> None:
        self.retired_step = max(self.retired_step, step)
        self.fenced = {page: fence for page, fence in self.fenced.items() if fence > self.retired_step}

    def flush(self) -> int:
        num_dropped = self.num_evictable
        self.cached = {prefix: entry for prefix, entry in self.cached.items() if entry.num_locks > 0}
        return num_dropped

    def tree_order(self, prompts: list[Tokens]) -> list[int]:
        """The position of each prompt in the walk: heaviest child first, then the oldest, parents behind their children."""
        ends = [(self.match(prompt) or [()])[-1] for prompt in prompts]

        def below(prefix: Tokens) -> list[int]:
            return [index for index, end in enumerate(ends) if end[: len(prefix)] == prefix]

        def rank(index: int) -> list[tuple[int, int]]:
            steps = [below(prefix) for prefix in self.prefixes(ends[index], len(ends[index]))]
            return [*((-len(step), step[0]) for step in steps), (1, index)]

        walk = sorted(range(len(ends)), key=rank)
        return [walk.index(index) for index in range(len(ends))]
