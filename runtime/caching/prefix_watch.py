"""The watch on waiting requests: how much of each is cached, and in which order a walk of the tree meets them.

Owns the watched requests in the order of their arrival. Receives and sends nothing. Only the oldest `WINDOW` are matched, only
after the tree or the window changed, and each from where its last match ended, so a long queue costs no more than a short one.
Invariant: what was told last about a request of the window is true whenever `refresh` has returned.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from runtime.caching.radix import Node, RadixTree
from runtime.messages import PrefixMatch

WINDOW = 128
"""Requests beyond it are told nothing until they come into it."""


class Watched:
    """One waiting request, of which at most `max_num_pages` may come from the cache."""

    __slots__ = ("max_num_pages", "node", "num_pages", "token_ids", "told")

    def __init__(self, token_ids: tuple[int, ...], max_num_pages: int, node: Node) -> None:
        self.token_ids = token_ids
        self.max_num_pages = max_num_pages
        self.node = node
        """Where the match ended last; its path may have lost pages since."""
        self.num_pages = node.num_path_pages
        """What matched then."""
        self.told: PrefixMatch | None = None


class PrefixWatch:
    """The queue as the tree sees it."""

    def __init__(self, tree: RadixTree) -> None:
        self._tree = tree
        self._watched: dict[int, Watched] = {}
        self._seen_version = tree.version
        self._has_new_window = False

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, request_id: int, token_ids: tuple[int, ...], max_num_pages: int) -> None:
        """Tell of the first `max_num_pages` pages of `token_ids`, from the next `refresh` on."""
        self._watched[request_id] = Watched(token_ids, max_num_pages, self._tree.root)
        self._has_new_window = True

    def unwatch(self, request_id: int) -> bool:
        """Whether the request was watched."""
        self._has_new_window = True
        return self._watched.pop(request_id, None) is not None

    def refresh(self) -> tuple[PrefixMatch, ...]:
        """The matches that are not as they were told last."""
        if self._tree.version == self._seen_version and not self._has_new_window:
            return ()
        has_new_window = self._has_new_window
        self._seen_version, self._has_new_window = self._tree.version, False
        window = dict(islice(self._watched.items(), WINDOW))
        have_moved = [self._match(watched) for watched in window.values()]
        if not has_new_window and not any(have_moved):
            return ()
        order = tree_order(self._tree, (watched.node for watched in window.values()))
        return tuple(self._changes(window, order))

    def _match(self, watched: Watched) -> bool:
        """Whether the match ends elsewhere than before."""
        start = watched.node if self._tree.contains(watched.node) else self._tree.root
        watched.node = self._tree.match(watched.token_ids, watched.max_num_pages, start)
        num_pages = watched.node.num_path_pages
        is_moved = watched.node is not start or num_pages != watched.num_pages
        watched.num_pages = num_pages
        return is_moved

    def _changes(self, window: dict[int, Watched], order: list[int]) -> Iterable[PrefixMatch]:
        for (request_id, watched), position in zip(window.items(), order, strict=True):
            num_cached_tokens = watched.num_pages * self._tree.page_size
            told = watched.told
            if told is None or told.num_cached_tokens != num_cached_tokens or told.tree_order != position:
                watched.told = PrefixMatch(request_id, num_cached_tokens, position)
                yield watched.told


def tree_order(tree: RadixTree, ends: Iterable[Node]) -> list[int]:
    """The position of each of `ends` in a depth-first walk that visits the child with most of them below it first.

    Longer matches come before shorter ones on the same path (SGLang's dfs-weight); ties keep the order of `ends`.
    """
    requests: dict[Node, list[int]] = {}
    for index, node in enumerate(ends):
        requests.setdefault(node, []).append(index)
    children, weights = _weigh(tree, requests)
    walk: list[int] = []  # last to first: a node before its children, the lightest of them first
    stack = [tree.root]
    while stack:
        node = stack.pop()
        walk.extend(reversed(requests.get(node, ())))
        stack.extend(sorted(children.get(node, ()), key=lambda child: -weights[child]))
    positions = [0] * len(walk)
    for position, index in enumerate(reversed(walk)):
        positions[index] = position
    return positions


def _weigh(tree: RadixTree, requests: dict[Node, list[int]]) -> tuple[dict[Node, list[Node]], dict[Node, int]]:
    """The part of the tree on the way to `requests`: children of each node, and requests at or below each node."""
    children: dict[Node, list[Node]] = {}
    weights = {tree.root: 0}
    for end in requests:
        branch = []
        for node in tree.path(end):
            if node in weights:
                break
            branch.append(node)
        for node in reversed(branch):  # parents come before their children in `weights`
            assert node.parent is not None
            weights[node] = 0
            children.setdefault(node.parent, []).append(node)
    for node, indices in requests.items():
        weights[node] += len(indices)
    for node in reversed(weights):
        if node.parent is not None:
            weights[node.parent] += weights[node]
    return children, weights
