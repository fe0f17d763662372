"""The page cache beside its model, in pools so small that every page matters and with prompts that nearly all collide."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.caching.page_cache import PageCache
from runtime.messages import Grow, PagesGranted, PrefixMatch, Publish, Release, SettleStep, StepSettled
from tests.caching.model import Model, Tokens

TOKENS = st.sampled_from([0, 0, 0, 1])
PROMPTS = st.lists(TOKENS, min_size=1, max_size=10).map(tuple)
FENCES = st.integers(-1, 2)


class PageCacheMachine(RuleBasedStateMachine):
    """Does to a `PageCache` what a scheduler may do, in any order, and compares every answer with the model's."""

    cache: PageCache
    model: Model

    @initialize(
        num_pages=st.integers(3, 12), page_size=st.integers(1, 4), is_sharing=st.sampled_from([True, True, True, False])
    )
    def start(self, num_pages: int, page_size: int, is_sharing: bool) -> None:
        self.cache = PageCache(num_pages, page_size, disable_radix_cache=not is_sharing)
        self.model = Model(num_pages, page_size, is_sharing)
        self.step = 0
        self.num_late = 0
        self.num_watches = 0
        self.ended: list[int] = []
        self.watched: dict[int, Tokens] = {}
        self.told: dict[int, PrefixMatch] = {}

    def lease_id(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.model.leases)))

    @rule(prompts=st.lists(PROMPTS, min_size=1, max_size=3))
    def reserve(self, prompts: list[Tokens]) -> None:
        for prompt in prompts:
            self.reserve_one(prompt)

    def reserve_one(self, prompt: Tokens) -> None:
        can_reserve, num_cached = self.model.can_reserve(prompt), len(self.model.match(prompt))
        answer = self.cache.reserve(self.step, prompt)
        assert isinstance(answer, PagesGranted) == can_reserve
        if isinstance(answer, PagesGranted):
            assert answer.num_cached_tokens == num_cached * self.model.page_size
            self.model.reserve(answer.lease_id, prompt, answer.pages)
        assert answer.num_available_pages == self.model.num_available

    @rule(prompt=PROMPTS)
    def complete(self, prompt: Tokens) -> None:
        """A request that runs alone, from its grant to its end: what fills a cache fastest."""
        self.reserve_one(prompt)
        lease_id = max(self.model.leases, default=0)
        if lease_id and self.model.leases[lease_id].prompt == prompt:
            release = Release(lease_id, prompt, self.model.retired_step)
            self.cache.release(release)
            self.follow_release(release)

    @rule(data=st.data(), num_retired=st.integers(0, 3))
    def settle(self, data: st.DataObject, num_retired: int) -> None:
        """One step with any mix of publishes, releases and grows, also for leases that end in it or have ended."""
        ids = sorted(self.model.leases) + self.ended[-1:]
        some = st.lists(st.sampled_from(ids), max_size=3) if ids else st.just([])
        self.step += 1
        publishes = tuple(Publish(i, data.draw(st.integers(0, 18))) for i in data.draw(some))
        releases = tuple(self.draw_release(data, i) for i in data.draw(some))
        grows = tuple(Grow(i, data.draw(st.integers(0, 3))) for i in data.draw(some))
        retired_step = min(self.step - 1, self.model.retired_step + num_retired)
        answer = self.cache.settle(
            SettleStep(step_id=self.step, retired_step=retired_step, publishes=publishes, releases=releases, grows=grows)
        )
        self.model.retire(retired_step)
        for publish in publishes:
            self.follow_publish(publish)
        for release in releases:
            self.follow_release(release)
        self.follow_grows(grows, answer)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), num_tokens=st.integers(1, 16))
    def publish(self, data: st.DataObject, num_tokens: int) -> None:
        publish = Publish(self.lease_id(data), num_tokens)
        self.cache.publish(publish.lease_id, publish.num_tokens)
        self.follow_publish(publish)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        release = self.draw_release(data, self.lease_id(data))
        self.cache.release(release)
        self.follow_release(release)

    @precondition(lambda self: self.model.num_evictable)
    @rule()
    def flush(self) -> None:
        assert self.cache.flush() == self.model.flush()

    @rule(prompts=st.lists(PROMPTS, min_size=1, max_size=4))
    def watch(self, prompts: list[Tokens]) -> None:
        for prompt in prompts:
            self.num_watches += 1
            self.watched[self.num_watches] = prompt
            self.cache.watch(self.num_watches, prompt)

    @precondition(lambda self: self.watched)
    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.watched)))
        del self.watched[request_id]
        self.cache.unwatch(request_id)

    @precondition(lambda self: self.watched)
    @rule()
    def report(self) -> None:
        for match in self.cache.changed_matches():
            assert self.told.get(match.request_id) != match, "told again without a change"
            self.told[match.request_id] = match
        prompts = list(self.watched.values())
        for request_id, prompt, position in zip(self.watched, prompts, self.model.tree_order(prompts), strict=True):
            num_cached_tokens = len(self.model.match(prompt)) * self.model.page_size
            assert self.told[request_id] == PrefixMatch(request_id, num_cached_tokens, position)

    def draw_release(self, data: st.DataObject, lease_id: int) -> Release:
        """With what may be computed: a part of the prompt, or all of it and some output that its pages hold."""
        fence_step = self.step + data.draw(FENCES)
        lease = self.model.leases.get(lease_id)
        if lease is None:
            return Release(lease_id, (1, 1), fence_step)
        room = len(lease.pages) * self.model.page_size - len(lease.prompt)
        tokens = lease.prompt + tuple(data.draw(st.lists(TOKENS, max_size=room)))
        if data.draw(st.booleans()):
            tokens = tokens[: data.draw(st.integers(0, len(tokens)))]
        return Release(lease_id, tokens, fence_step)

    def follow_publish(self, publish: Publish) -> None:
        if publish.lease_id in self.model.leases:
            self.model.publish(publish.lease_id, publish.num_tokens)
        else:
            self.num_late += 1

    def follow_release(self, release: Release) -> None:
        if release.lease_id in self.model.leases:
            self.model.release(release.lease_id, release.token_ids, release.fence_step)
            self.ended.append(release.lease_id)
        else:
            self.num_late += 1

    def follow_grows(self, grows: tuple[Grow, ...], answer: StepSettled) -> None:
        """The first come is the first served, and a lease may ask twice."""
        num_left, granted, denied = self.model.num_available, [], []
        for grow in grows:
            is_late = grow.lease_id not in self.model.leases
            self.num_late += is_late
            if is_late or grow.num_pages > num_left:
                denied.append(grow.lease_id)
            else:
                num_left -= grow.num_pages
                granted.append((grow.lease_id, grow.num_pages))
        assert answer.denied == tuple(denied)
        assert [(grown.lease_id, len(grown.pages)) for grown in answer.grown] == granted
        self.model.make_room(sum(num_pages for _, num_pages in granted))
        for grown in answer.grown:
            self.model.grow(grown.lease_id, grown.pages)
        assert answer.num_available_pages == self.model.num_available

    @invariant()
    def is_sound(self) -> None:
        self.cache.check()
        state, model = self.cache.state(), self.model
        assert (state.num_free_pages, state.num_cached_pages) == (model.num_free, model.num_evictable)
        assert (state.num_fenced_pages, state.num_leases) == (len(model.fenced), len(model.leases))
        assert self.cache.num_late == self.num_late

    def teardown(self) -> None:
        """Whatever happened, all pages come back."""
        if not hasattr(self, "cache"):
            return
        for lease_id in sorted(self.model.leases):
            self.cache.release(Release(lease_id, (), self.step))
        self.cache.settle(SettleStep(step_id=self.step + 9, retired_step=self.step + 9))
        self.cache.flush()
        self.cache.check()
        assert self.cache.state().num_free_pages == self.model.num_pages


TestPageCache = PageCacheMachine.TestCase
TestPageCache.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
