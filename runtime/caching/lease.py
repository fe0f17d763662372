"""A lease: the pages that one running sequence holds.

Owns private pages, which only this sequence uses, and one lock on a path of the radix tree, whose pages others may share.
Pages in use are given back to the pool by their lease only, and that consumes it: any later use raises `OwnershipError`.
Receives and sends nothing. Invariant: each page of the page table is private or in the locked path, never both, and a lease
holds no page that is not in its page table; so a request that fits in the pool alone can always run alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.caching.pool import OwnershipError, PagePool, expect
from runtime.caching.radix import Node, RadixTree


class Lease:
    """The page table of a sequence whose prompt is `token_ids`, first of all the pages of the path to `node`."""

    __slots__ = ("_is_released", "_node", "_pages", "_pool", "_token_ids", "_tree", "lease_id")

    def __init__(self, lease_id: int, token_ids: tuple[int, ...], tree: RadixTree, node: Node, pool: PagePool) -> None:
        """Lock the path to `node`, which must be a match of `token_ids`."""
        self.lease_id = lease_id
        self._token_ids = token_ids
        self._tree = tree
        self._pool = pool
        self._node = node
        self._pages = tree.path_pages(node)
        self._is_released = False
        tree.lock(node)

    @property
    def node(self) -> Node:
        """Where the locked path ends."""
        return self._node

    @property
    def pages(self) -> tuple[int, ...]:
        """The page table: page i holds the tokens from i * page_size on."""
        return tuple(self._pages)

    @property
    def private_pages(self) -> list[int]:
        return self._pages[self._node.num_path_pages :]

    def grow(self, pages: Sequence[int]) -> None:
        """Own `pages`, at the end of the page table."""
        self._check_is_held()
        self._pages += pages

    def publish(self, num_tokens: int) -> None:
        """Let others share the full pages of the first `num_tokens` of the prompt, which are computed.

        Only up to tokens that the tree has under another page: to hold that page too would take more than the sequence needs.
        """
        self._check_is_held()
        start, size = self._node.num_path_pages, self._tree.page_size
        num_pages = min(num_tokens, len(self._token_ids)) // size
        if num_pages <= start or self._token_ids[start * size : (start + 1) * size] in self._node.children:
            return
        node = self._tree.attach(self._node, self._token_ids, self._pages[start:num_pages])
        self._tree.lock(node, below=self._node)
        self._node = node

    def release(self, token_ids: tuple[int, ...], fence_step: int) -> None:
        """End the lease: share the full pages of `token_ids`, all of which are computed, and give the others back.

        A row that is still in flight writes only behind `token_ids`, so shared pages need no fence. Raises `OwnershipError`
        if the lease has ended before, or if its pages can not be those of `token_ids`.
        """
        self._check_is_held()
        self._check_is_mine(token_ids)
        private = self._share(token_ids, len(token_ids) // self._tree.page_size)
        self._is_released = True
        self._tree.unlock(self._node)
        self._pool.give_back(private, fence_step)

    def _share(self, token_ids: tuple[int, ...], num_pages: int) -> list[int]:
        """Hand the first `num_pages` pages to the tree. Returns the rest, and ours where the tree has the tokens already."""
        locked, pages = self._node, self._pages
        if num_pages <= locked.num_path_pages:
            return self.private_pages
        node = self._tree.match(token_ids, num_pages, locked)
        num_known = node.num_path_pages
        if num_known < num_pages:
            node = self._tree.attach(node, token_ids, pages[num_known:num_pages])
        self._tree.lock(node, below=locked)
        self._node = node
        return pages[locked.num_path_pages : num_known] + pages[num_pages:]

    def _check_is_held(self) -> None:
        if self._is_released:
            raise OwnershipError(f"lease {self.lease_id} was used after its release")

    def _check_is_mine(self, token_ids: tuple[int, ...]) -> None:
        num_known = min(len(token_ids), len(self._token_ids))
        if token_ids[:num_known] != self._token_ids[:num_known]:
            raise OwnershipError(f"lease {self.lease_id} was released with the tokens of another sequence")
        if len(token_ids) > len(self._pages) * self._tree.page_size:
            raise OwnershipError(f"lease {self.lease_id} was released with more tokens than its pages hold")

    def check(self) -> None:
        """Raises `AssertionError` if the page table is not made of the locked path and private pages."""
        tree, size = self._tree, self._tree.page_size
        expect(not self._is_released, f"lease {self.lease_id} is listed after its release")
        expect(tree.contains(self._node), f"the path of lease {self.lease_id} was evicted")
        keys = [key for node in reversed(list(tree.path(self._node))) for key in node.keys]
        for position, (key, shared, own) in enumerate(zip(keys, tree.path_pages(self._node), self._pages, strict=False)):
            start = position * size
            expect(key == self._token_ids[start : start + size], f"lease {self.lease_id} is locked to other tokens")
            expect(own == shared, f"lease {self.lease_id} is locked to page {shared} instead of its own page {own}")
