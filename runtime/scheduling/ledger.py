"""The scheduler's side of the cache protocol: what the cache still has to be told, and what it still has to answer.

Owns the leases of running requests, publishes and releases not sent yet, and which requests want a page. At most one
`SettleStep` is unanswered. A request that wants pages is *wanting* until the answer; denied, it is *stalled*, and asks
again in every later `SettleStep`, since only releases and fences can change the answer.
"""

from __future__ import annotations

from runtime.messages import Grow, PagesGranted, Publish, Release, SettleStep, StepSettled
from runtime.scheduling.request import Request


class PageLedger:
    def __init__(self, num_pages: int) -> None:
        self.num_available_pages = num_pages
        self.wanting: dict[Request, None] = {}
        self.stalled: dict[Request, None] = {}
        self.leases: dict[int, Request] = {}
        self.is_settling = False
        self._publishes: dict[int, int] = {}
        self._releases: list[Release] = []
        self._last_fence = 0
        self._told_retired = 0

    @property
    def has_unsent(self) -> bool:
        """Whether the cache does not know yet of pages that others could use."""
        return bool(self._publishes or self._releases)

    @property
    def is_quiet(self) -> bool:
        """Whether no page can come back without a running request giving it up."""
        return not (self.is_settling or self.has_unsent or self._last_fence > self._told_retired)

    def open(self, request: Request, granted: PagesGranted) -> None:
        request.begin_run(granted.lease_id, granted.pages, granted.num_cached_tokens)
        self.leases[granted.lease_id] = request
        self.num_available_pages = granted.num_available_pages

    def close(self, request: Request) -> None:
        """The request leaves the batch: give its pages back once its last planned step has retired."""
        del self.leases[request.lease_id]
        self.wanting.pop(request, None)
        self.stalled.pop(request, None)
        self._release(request.lease_id, request.known_ids()[: request.num_computed_tokens], request.last_step)

    def give_back(self, granted: PagesGranted) -> None:
        """Release pages that nobody waits for any more; nothing was computed in them."""
        self._release(granted.lease_id, (), 0)
        self.num_available_pages = granted.num_available_pages

    def publish(self, request: Request) -> None:
        self._publishes[request.lease_id] = request.num_published_tokens

    def want(self, request: Request) -> None:
        """The request needs more pages, and if it is stalled it has asked already."""
        if request not in self.stalled:
            self.wanting[request] = None

    @property
    def num_stalled_pages(self) -> int:
        """What the stalled requests need to go on."""
        return sum([request.num_wanted_pages for request in self.stalled])

    def ask_again(self) -> None:
        """Pages may have come or gone in another way than by settling."""
        self.wanting.update(self.stalled)
        self.stalled.clear()

    def settle(self, step_id: int, retired_step: int) -> SettleStep | None:
        """What has to be sent now, if anything. `step_id` is the last planned step."""
        is_fence_passed = self._told_retired < self._last_fence <= retired_step
        if self.is_settling or not (self.wanting or self.has_unsent or is_fence_passed):
            return None
        self.ask_again()
        message = SettleStep(
            step_id=step_id,
            retired_step=retired_step,
            publishes=tuple([Publish(lease_id, num) for lease_id, num in self._publishes.items()]),
            releases=tuple(self._releases),
            grows=tuple([Grow(request.lease_id, request.num_wanted_pages) for request in self.wanting]),
        )
        self._publishes.clear()
        self._releases.clear()
        self._told_retired = retired_step
        self.is_settling = True
        return message

    def settled(self, message: StepSettled) -> None:
        """Requests that ended in the meantime are passed over: their release takes the grown pages along."""
        self.is_settling = False
        self.num_available_pages = message.num_available_pages
        for grown in message.grown:
            request = self.leases.get(grown.lease_id)
            if request is not None:
                request.grow(grown.pages)
                self.wanting.pop(request, None)
        for lease_id in message.denied:
            request = self.leases.get(lease_id)
            if request is not None:
                self.wanting.pop(request, None)
                self.stalled[request] = None

    def _release(self, lease_id: int, token_ids: tuple[int, ...], fence_step: int) -> None:
        self._releases.append(Release(lease_id, token_ids, fence_step))
        self._last_fence = max(self._last_fence, fence_step)
