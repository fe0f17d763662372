"""The radix tree: which prefixes are in the KV cache, under which pages.

Owns the pages that are shared or may be. An edge is a run of full pages; its key is the tuple of `page_size` token ids of each
page. A node is locked by the leases whose sequences pass through it; unlocked leaves are dropped, page by page from
their ends, in the order of their last use. Receives and sends nothing.

Invariant: a node has at least as many locks as each of its children, so every unlocked page can be evicted.
Depth is the client's choice, so nothing here recurses. The structure is RadixAttention's (Zheng et al., "SGLang", 2024).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from runtime.caching.pool import OwnershipError, expect

PageKey = tuple[int, ...]
"""The token ids of one full page."""

_NOT_QUEUED = 0
_MIN_HEAP_LENGTH = 64


class Node:
    """A run of pages below `parent`. Owned by its `RadixTree`; others read it and keep it as a place in the tree.

    Splitting keeps the node as the lower part, so that a place stays the end of the same tokens.
    """

    __slots__ = ("children", "keys", "last_used", "num_locks", "num_path_pages", "pages", "parent", "ticket")

    def __init__(self, parent: Node | None, keys: list[PageKey], pages: list[int]) -> None:
        self.parent = parent
        self.keys = keys
        self.pages = pages
        self.children: dict[PageKey, Node] = {}
        """By the first key of the child."""
        self.num_path_pages: int = len(pages) + (parent.num_path_pages if parent else 0)
        """From the root to the end of this node."""
        self.num_locks = 0
        self.last_used = 0
        self.ticket = _NOT_QUEUED


class RadixTree:
    """Prefixes of `page_size` tokens per page. `version` changes with every change of what is cached."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.root = Node(None, [], [])
        self.num_evictable_pages = 0
        self.version = 0
        self._num_uses = 0
        self._num_tickets = 0
        self._num_queued = 0
        self._queue: list[tuple[int, int, Node]] = []  # (last_used, ticket, leaf): entries with an old ticket are void

    def match(self, token_ids: tuple[int, ...], num_pages: int, start: Node | None = None) -> Node:
        """The node where the longest cached prefix of the first `num_pages` pages ends; splits where it ends inside one.

        `start` is a node in the tree that is known to be on the way.
        """
        node = start or self.root
        while node.num_path_pages < num_pages:
            position = node.num_path_pages * self.page_size
            child = node.children.get(token_ids[position : position + self.page_size])
            if child is None:
                break
            num_common = _num_common(child.keys, self._keys(token_ids, node, min(num_pages, child.num_path_pages)))
            node = child if num_common == len(child.keys) else self._split(child, num_common)
        return node

    def attach(self, node: Node, token_ids: tuple[int, ...], pages: list[int]) -> Node:
        """Own `pages`, which hold the tokens that follow `node`. They must not be cached, as `match` can tell."""
        num_pages = node.num_path_pages + len(pages)
        leaf = Node(node, self._keys(token_ids, node, num_pages), pages)
        if leaf.keys[0] in node.children:
            raise OwnershipError(f"page {pages[0]} is a duplicate of page {node.children[leaf.keys[0]].pages[0]}")
        self._dequeue(node)
        node.children[leaf.keys[0]] = leaf
        self.num_evictable_pages += len(pages)
        self._enqueue(leaf)
        self.version += 1
        return leaf

    def lock(self, node: Node, below: Node | None = None) -> None:
        """Keep the path to `node` from eviction; of a path already locked up to `below`, only the rest."""
        for place in self.path(node, below):
            if place.num_locks == 0:
                self.num_evictable_pages -= len(place.pages)
                self._dequeue(place)
            place.num_locks += 1

    def unlock(self, node: Node) -> None:
        """Undo one `lock` of the whole path, and count that as its last use. Raises `OwnershipError` if there is none."""
        self._num_uses += 1
        for place in self.path(node):
            if place.num_locks == 0:
                raise OwnershipError("a path of the radix tree was unlocked more often than locked")
            place.num_locks -= 1
            place.last_used = self._num_uses
            if place.num_locks == 0:
                self.num_evictable_pages += len(place.pages)
                self._enqueue(place)

    def evict(self, num_pages: int) -> list[int]:
        """Drop `num_pages` unlocked pages, the longest unused first. Raises `OwnershipError` if there are fewer."""
        if num_pages > self.num_evictable_pages:
            raise OwnershipError(f"{num_pages} pages to evict, {self.num_evictable_pages} evictable")
        evicted: list[int] = []
        while len(evicted) < num_pages:
            _, ticket, leaf = self._queue[0]
            if leaf.ticket != ticket:
                heapq.heappop(self._queue)
                continue
            evicted += self._trim(leaf, num_pages - len(evicted))
        self.num_evictable_pages -= len(evicted)
        self.version += bool(evicted)
        return evicted

    def path(self, node: Node, below: Node | None = None) -> Iterator[Node]:
        """The nodes from `node` upwards, without `below`, which is above all of them; by default the root."""
        last = below or self.root
        while node is not last:
            assert node.parent is not None, "the path does not lead to its beginning"
            yield node
            node = node.parent

    def path_pages(self, node: Node) -> list[int]:
        """The pages from the root to the end of `node`."""
        runs = [place.pages for place in self.path(node)]
        return [page for run in reversed(runs) for page in run]

    def contains(self, node: Node) -> bool:
        """Whether `node` is still in the tree."""
        return node.parent is not None or node is self.root

    def walk(self) -> Iterator[Node]:
        """All nodes but the root, parents first."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _keys(self, token_ids: tuple[int, ...], node: Node, num_pages: int) -> list[PageKey]:
        """The keys of the pages after `node`, up to `num_pages` from the root."""
        tokens = iter(token_ids[node.num_path_pages * self.page_size : num_pages * self.page_size])
        return list(zip(*[tokens] * self.page_size, strict=True))

    def _split(self, node: Node, num_upper_pages: int) -> Node:
        """Move the first pages of `node` into a new node above it, which is returned."""
        assert node.parent is not None, "the root has no pages"
        upper = Node(node.parent, node.keys[:num_upper_pages], node.pages[:num_upper_pages])
        upper.num_locks = node.num_locks
        upper.last_used = node.last_used
        node.parent.children[upper.keys[0]] = upper
        node.parent = upper
        del node.keys[:num_upper_pages]
        del node.pages[:num_upper_pages]
        upper.children[node.keys[0]] = node
        return upper

    def _trim(self, leaf: Node, num_pages: int) -> list[int]:
        """Take up to `num_pages` pages from the end of `leaf`, and take it off the tree if none is left."""
        num_kept = max(0, len(leaf.pages) - num_pages)
        pages = leaf.pages[num_kept:]
        leaf.num_path_pages -= len(pages)
        if num_kept:
            del leaf.keys[num_kept:], leaf.pages[num_kept:]
        else:
            self._detach(leaf)
        return pages

    def _detach(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None, "the root is never evicted"
        self._dequeue(leaf)
        leaf.parent = None
        del parent.children[leaf.keys[0]]
        if parent is not self.root and parent.num_locks == 0:
            self._enqueue(parent)

    def _enqueue(self, node: Node) -> None:
        """Offer an unlocked node for eviction, if it is a leaf."""
        if node.children:
            return
        self._num_tickets += 1
        node.ticket = self._num_tickets
        heapq.heappush(self._queue, (node.last_used, node.ticket, node))
        self._num_queued += 1
        if len(self._queue) > _MIN_HEAP_LENGTH + 2 * self._num_queued:
            self._queue = [entry for entry in self._queue if entry[2].ticket == entry[1]]
            heapq.heapify(self._queue)

    def _dequeue(self, node: Node) -> None:
        if node.ticket != _NOT_QUEUED:
            node.ticket = _NOT_QUEUED
            self._num_queued -= 1

    def check(self) -> list[int]:
        """The pages in the tree. Raises `AssertionError` if it is malformed or miscounted."""
        nodes = list(self.walk())
        for node in nodes:
            self._check_node(node)
        num_evictable = sum(len(node.pages) for node in nodes if node.num_locks == 0)
        expect(num_evictable == self.num_evictable_pages, f"{num_evictable} evictable, counted {self.num_evictable_pages}")
        leaves = {id(node) for node in nodes if node.num_locks == 0 and not node.children}
        queued = [id(node) for _, ticket, node in self._queue if node.ticket == ticket]
        expect(len(queued) == len(leaves) and set(queued) == leaves, "the queue for eviction is not the unlocked leaves")
        expect(self._num_queued == len(leaves), f"{len(leaves)} unlocked leaves, counted {self._num_queued}")
        return [page for node in nodes for page in node.pages]

    def _check_node(self, node: Node) -> None:
        parent = node.parent
        expect(parent is not None and bool(node.keys) and len(node.keys) == len(node.pages), "a node without pages or parent")
        assert parent is not None
        expect(all(len(key) == self.page_size for key in node.keys), "a page in the tree is not full")
        expect(parent.children.get(node.keys[0]) is node, "a child is not found under its first key")
        num_path_pages = parent.num_path_pages + len(node.pages)
        expect(node.num_path_pages == num_path_pages, f"a path has {num_path_pages} pages, counted {node.num_path_pages}")
        expect(parent is self.root or node.num_locks <= parent.num_locks, "a node is locked more often than its parent")
        expect(parent is self.root or node.last_used <= parent.last_used, "a node was used later than its parent")


def _num_common(keys: list[PageKey], others: list[PageKey]) -> int:
    """How many keys are the same from the beginning."""
    if keys == others:
        return len(keys)
    for position, (key, other) in enumerate(zip(keys, others, strict=False)):
        if key != other:
            return position
    return min(len(keys), len(others))
