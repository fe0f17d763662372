"""Keeps a common prefix from being computed more than once when many requests with it arrive together.

A request that is being prefilled *leads* at the next page that it will publish. A waiting request with the same tokens up to
the end of that page is held back until all pages that both share are published. The index is by hash of the prefix, so
looking a request up costs as much for one leader as for hundreds. A hash collision would only delay a request.
"""

from __future__ import annotations

from typing import NamedTuple

from runtime.scheduling.request import Request, Stage


class _Place(NamedTuple):
    """Where a leader is in the index."""

    group: int
    num_pages: int
    prefix: int


class PrefixLeaders:
    """Which request is about to publish which page, and who waits for it. Held requests are in no queue."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        # hash of the first page → number of pages up to the next one to publish → hash of those pages → leader
        self._groups: dict[int, dict[int, dict[int, Request]]] = {}
        self._places: dict[Request, _Place] = {}

    def find(self, request: Request) -> Request | None:
        """The leader that is about to publish a page of `request` which is not cached yet."""
        last = request.num_shareable_pages
        group = self._groups.get(request.page_hash(1)) if last and self._groups else None
        if group is None:
            return None
        first = request.num_hit_tokens // self._page_size + 1
        for num_pages, leaders in group.items():
            if first <= num_pages <= last:
                leader = leaders.get(request.page_hash(num_pages))
                if leader is not None:
                    return leader
        return None

    def hold(self, request: Request, leader: Request) -> None:
        """Keep `request` back until `leader` has published what both share, or stops leading."""
        leader.followers.append((self._num_shared_pages(request, leader), request))

    def lead(self, leader: Request, num_tokens: int) -> list[Request]:
        """`num_tokens` of the leader's prefix are published. Returns the followers that need not wait any longer."""
        self._forget(leader)
        num_published = num_tokens // self._page_size
        if num_published < len(leader.token_ids) // self._page_size:
            self._place(leader, num_published + 1)
        freed = [(shared, request) for shared, request in leader.followers if shared <= num_published]
        leader.followers = [follower for follower in leader.followers if follower[0] > num_published]
        for shared, request in freed:
            request.num_hit_tokens = max(request.num_hit_tokens, shared * self._page_size)
        return [request for _, request in freed if request.stage is Stage.WAITING]

    def drop(self, leader: Request) -> list[Request]:
        """The leader leaves the batch. Returns all of its followers."""
        self._forget(leader)
        followers, leader.followers = leader.followers, []
        return [request for _, request in followers if request.stage is Stage.WAITING]

    def leaders(self) -> list[Request]:
        return list(self._places)

    def _place(self, leader: Request, num_pages: int) -> None:
        place = _Place(leader.page_hash(1), num_pages, leader.page_hash(num_pages))
        leaders = self._groups.setdefault(place.group, {}).setdefault(num_pages, {})
        if leaders.setdefault(place.prefix, leader) is leader:
            self._places[leader] = place

    def _forget(self, leader: Request) -> None:
        place = self._places.pop(leader, None)
        if place is None:
            return
        group = self._groups[place.group]
        del group[place.num_pages][place.prefix]
        if not group[place.num_pages]:
            del group[place.num_pages]
        if not group:
            del self._groups[place.group]

    def _num_shared_pages(self, request: Request, leader: Request) -> int:
        """How many full pages both begin with and `request` can reuse: by bisection, since comparing tuples is cheap."""
        low = self._places[leader].num_pages  # equal up to here, or it would not be held
        high = min(request.num_shareable_pages, len(leader.token_ids) // self._page_size)
        start, guess = low * self._page_size, high  # most often it is all
        while low < high:
            end = guess * self._page_size
            if request.token_ids[start:end] == leader.token_ids[start:end]:
                low = guess
            else:
                high = guess - 1
            guess = (low + high + 1) // 2
        return low
