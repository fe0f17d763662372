"""A fake executor: it computes nothing, but it has the memory of a real one, so that a wrong page changes what it says.

Each page holds the token ids written to it, as a real one holds keys and values. The next token is a hash of what
"attention" reads through the page table, so a page that was reissued too early, shared by mistake or wrongly matched to a
prefix gives another token than `next_token(prefix)`. What no scheduler may do at all raises `BrokenPlan` when the step runs.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from runtime.errors import InvalidRequest
from runtime.executor.constraint import Constraint
from runtime.executor.port import ExecutorLimits, PostResult
from runtime.messages import (
    INVALID_TOKEN,
    CommandRan,
    Done,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RowExtra,
    RunCommand,
    SlotOpen,
    StepDone,
    StepFailed,
    StepPlan,
    StepRow,
    TokenLogprobs,
    UpdateWeights,
    joined_logprobs,
)
from runtime.params import LogprobOptions
from runtime.sampling.matcher import MatcherSource
from tests.fakes.matcher import ScriptedMatchers, allowed_ids

Schedule = Callable[[Callable[[], object]], object]


class BrokenPlan(AssertionError):
    """A plan asks for what no executor can do."""


def next_token(prefix: Sequence[int], vocab_size: int, masked: Iterable[int] = ()) -> int:
    """What the fake says after `prefix`: a hash of all of it, moved past masked ids."""
    digest = hashlib.blake2b(array("q", prefix).tobytes(), digest_size=8).digest()
    token_id = int.from_bytes(digest, "little") % vocab_size
    while token_id in masked:
        token_id = (token_id + 1) % vocab_size
    return token_id


def token_value(prefix: Sequence[int], token_id: int) -> float:
    """What the fake calls the log probability of `token_id` after `prefix`."""
    return -next_token([*prefix, token_id], 997) / 64


def logprobs_after(prefix: Sequence[int], token_id: int, options: LogprobOptions, vocab_size: int) -> TokenLogprobs:
    """The entry of `token_id` after `prefix`; nothing comes before the first token."""
    if not prefix:
        return TokenLogprobs((token_id,), (None,), (None,) if options.num_top else (), (None,) if options.token_ids else ())
    best = tuple((other, token_value(prefix, other)) for other in range(min(options.num_top, vocab_size)))
    chosen = tuple((other, token_value(prefix, other)) for other in options.token_ids)
    values = (token_value(prefix, token_id),)
    return TokenLogprobs((token_id,), values, (best,) if best else (), (chosen,) if chosen else ())


def hidden_state(prefix: Sequence[int]) -> tuple[float, ...]:
    """The output for the last token of `prefix`."""
    return (float(next_token(prefix, 2**20)),)


def constrained_token(prefix: Sequence[int], num_prompt_tokens: int, key: str, vocab_size: int) -> int | None:
    """What the fake says after `prefix` under the scripted grammar `key`; None where that is complete."""
    allowed = allowed_ids(key, prefix[num_prompt_tokens:], vocab_size)
    return next_token(prefix, vocab_size, set(range(vocab_size)) - set(allowed)) if allowed else None


def expected_output(prompt: Sequence[int], num_tokens: int, vocab_size: int) -> list[int]:
    """The `num_tokens` tokens that the fake generates after `prompt`."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        token_ids.append(next_token(token_ids, vocab_size))
    return token_ids[len(prompt) :]


@dataclass
class Slot:
    """An open slot: what it was opened with, and what happened since."""

    opened: SlotOpen
    token_ids: list[int]
    pages: list[int]
    constraint: Constraint | None = None
    is_lost: bool = False


class _Pending(NamedTuple):
    plan: StepPlan
    failure: StepFailed | None


@dataclass
class FakeExecutor:
    """Implements `runtime.executor.port.Executor` on the caller's thread.

    A submitted plan runs when `step` is called. With `schedule`, each `submit` passes `step` to it once, for instance
    `lambda run: loop.call_later(0.02, run)`. Plans run in the order of submission whatever the order of the calls.
    """

    limits: ExecutorLimits
    schedule: Schedule | None = None
    plans: list[StepPlan] = field(default_factory=list)
    """Every plan ever submitted."""
    invalid_slots: set[int] = field(default_factory=set)
    """Slots whose logits are not finite."""
    matchers: MatcherSource | None = None
    """Scripted grammars, if none are given."""
    jumps_forward: bool = True

    def __post_init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self.kv: dict[tuple[int, int], int] = {}
        """(page, offset) → token id."""
        self.writers: dict[tuple[int, int], int] = {}
        """(page, offset) → the weights that wrote it."""
        self.weights = 0
        """How often they were exchanged."""
        self.released: set[str] = set()
        self._pending: deque[_Pending | RunCommand | None] = deque()
        self._failures: deque[tuple[str, bool]] = deque()
        self._post: PostResult | None = None
        self.is_stopped = False

    def start(self, post: PostResult) -> None:
        self._forget_pending()
        self._post = post
        self.is_stopped = False

    def submit(self, plan: StepPlan) -> None:
        if self._post is None:
            raise BrokenPlan("a plan before start or after stop")
        self.plans.append(plan)
        self._pending.append(_Pending(plan, self._next_failure(plan)))
        if self.schedule is not None:
            self.schedule(self.step)

    def execute(self, command: RunCommand) -> None:
        if self._post is None:
            raise BrokenPlan("a command before start or after stop")
        self._pending.append(command)
        if self.schedule is not None:
            self.schedule(self.step)

    def reset(self) -> None:
        """Forget all slots; plans in flight are never answered. The memory keeps its contents, as a real one does."""
        self._forget_pending()
        self.slots.clear()
        self.released.clear()

    def stop(self) -> None:
        self._forget_pending()
        self._post = None
        self.is_stopped = True

    @property
    def num_pending(self) -> int:
        """Plans that wait for `step`."""
        return sum(isinstance(pending, _Pending) for pending in self._pending)

    def fail_next(self, reason: str = "injected", *, is_fatal: bool = False) -> None:
        """The next plan to be submitted fails in the middle of its forward pass."""
        self._failures.append((reason, is_fatal))

    def step(self) -> StepDone | StepFailed | CommandRan | None:
        """Run the oldest plan and post its result, which is also returned. None if there was nothing to run."""
        pending = self._pending.popleft() if self._pending else None
        if pending is None:
            return None
        result = self._obey(pending) if isinstance(pending, RunCommand) else self._try(pending)
        if self._post is not None:
            self._post(result)
        return result

    def _try(self, pending: _Pending) -> StepDone | StepFailed:
        if self.released:
            raise BrokenPlan("a plan while memory is given back")
        if pending.failure is None:
            return self._run(pending.plan)
        self._lose(pending.plan)
        return pending.failure

    def _obey(self, command: RunCommand) -> CommandRan:
        answer: Done | Refused = Done()
        match command.command:
            case UpdateWeights(model_path="missing"):
                answer = Refused(failure=InvalidRequest("no such weights").failure)
            case UpdateWeights():
                self.weights += 1
            case ReadWeights():
                answer = Done(value=[float(self.weights)])
            case ReleaseMemory(tags=tags):
                self.released.update(tags)
                self.kv.clear()
            case ResumeMemory(tags=tags):
                self.released.difference_update(tags)
        return CommandRan(command_id=command.command_id, answer=answer)

    def _next_failure(self, plan: StepPlan) -> StepFailed | None:
        if not self._failures:
            return None
        reason, is_fatal = self._failures.popleft()
        return StepFailed(step_id=plan.step_id, reason=reason, is_fatal=is_fatal)

    def _forget_pending(self) -> None:
        # Each one leaves a gap, because the calls of `step` that were scheduled for them still come.
        self._pending = deque([None] * len(self._pending) if self.schedule is not None else ())

    # -----------------------------------------------------------------------------------------------------------------
    # One step

    def _run(self, plan: StepPlan) -> StepDone:
        self._apply(plan)
        live = [row for row in plan.rows if not self.slots[row.slot].is_lost]
        self._check_writes(live)
        for row in live:
            self._write(row)
        token_ids = [self._sample(row) if row.sample else None for row in plan.rows]
        found = [self._extra(index, row, token_ids[index]) for index, row in enumerate(plan.rows)]
        return StepDone(
            step_id=plan.step_id,
            token_ids=tuple(token_id for token_id in token_ids if token_id is not None),
            extras=tuple(extra for extra in found if extra is not None),
        )

    def _apply(self, plan: StepPlan) -> None:
        for slot in plan.closes:
            self.slots.pop(slot, None)
        for opened in plan.opens:
            self._open(opened)
        for row in plan.rows:
            if row.slot not in self.slots:
                raise BrokenPlan(f"step {plan.step_id} has a row for slot {row.slot}, which is not open")
            self.slots[row.slot].pages.extend(self._checked_pages(row.new_pages))

    def _open(self, opened: SlotOpen) -> None:
        if not 0 <= opened.slot < self.limits.num_slots:
            raise BrokenPlan(f"slot {opened.slot} of {self.limits.num_slots} does not exist")
        if opened.slot in self.slots:
            raise BrokenPlan(f"slot {opened.slot} is opened twice")
        if not all(0 <= token_id < self.limits.vocab_size for token_id in opened.token_ids):
            raise BrokenPlan(f"slot {opened.slot} has a token id outside the vocabulary")
        if not 1 <= opened.num_prompt_tokens <= len(opened.token_ids) <= self.limits.context_length:
            raise BrokenPlan(f"slot {opened.slot} opens with {len(opened.token_ids)} tokens")
        pages = list(self._checked_pages(opened.pages))
        slot = self.slots[opened.slot] = Slot(opened, list(opened.token_ids), pages)
        if opened.grammar_key is not None:
            matchers = self.matchers or ScriptedMatchers(self.limits.vocab_size)
            slot.constraint = Constraint(opened, matchers, self.limits.vocab_size, jumps_forward=self.jumps_forward)
            slot.token_ids += slot.constraint.follow(opened.token_ids[opened.num_prompt_tokens :])

    def _checked_pages(self, pages: tuple[int, ...]) -> tuple[int, ...]:
        for page in pages:
            if not 0 <= page < self.limits.num_pages:
                raise BrokenPlan(f"page {page} of {self.limits.num_pages} does not exist")
        return pages

    def _check_writes(self, rows: Sequence[StepRow]) -> None:
        """Every row is a contiguous run of known tokens in pages of its own, and no page is written by two rows."""
        writers: dict[int, int] = {}
        for row in rows:
            slot, end = self.slots[row.slot], row.start + row.num_tokens
            if row.num_tokens < 1 or not 0 <= row.start < end <= len(slot.token_ids):
                raise BrokenPlan(
                    f"slot {row.slot} has {len(slot.token_ids)} tokens; positions {row.start} to {end} were planned"
                )
            if row.sample and end != len(slot.token_ids) and slot.constraint is None:
                raise BrokenPlan(f"slot {row.slot} is sampled at position {end} of {len(slot.token_ids)}")
            if end > len(slot.pages) * self.limits.page_size:
                raise BrokenPlan(f"slot {row.slot} has {len(slot.pages)} pages, too few for {end} tokens")
            if len(set(slot.pages)) != len(slot.pages):
                raise BrokenPlan(f"slot {row.slot} has a page twice: {slot.pages}")
            for page in self._written_pages(row):
                if writers.setdefault(page, row.slot) != row.slot:
                    raise BrokenPlan(f"slots {writers[page]} and {row.slot} write to page {page} in one step")
        if len({row.slot for row in rows}) != len(rows):
            raise BrokenPlan("a slot has two rows in one step")

    def _written_pages(self, row: StepRow) -> list[int]:
        first = row.start // self.limits.page_size
        last = (row.start + row.num_tokens - 1) // self.limits.page_size
        return self.slots[row.slot].pages[first : last + 1]

    def _write(self, row: StepRow) -> None:
        slot = self.slots[row.slot]
        for position in range(row.start, row.start + row.num_tokens):
            place = self._place(slot, position)
            self.kv[place], self.writers[place] = slot.token_ids[position], self.weights

    def _place(self, slot: Slot, position: int) -> tuple[int, int]:
        page, offset = divmod(position, self.limits.page_size)
        return slot.pages[page], offset

    def _sample(self, row: StepRow) -> int:
        slot, end = self.slots[row.slot], row.start + row.num_tokens
        if slot.is_lost:
            return INVALID_TOKEN
        prefix = self._attend(slot, row)
        if end < len(slot.token_ids):
            return slot.token_ids[end]  # the grammar has forced it
        masked = self._masked(slot)
        is_broken = slot.constraint is not None and row.slot in self.invalid_slots
        if is_broken or len(masked) == self.limits.vocab_size:  # the last is so behind the end of a grammar
            slot.token_ids.append(0)  # a row planned meanwhile has to find something
            return INVALID_TOKEN
        token_id = next_token(prefix, self.limits.vocab_size, masked)
        slot.token_ids.append(token_id)
        if slot.constraint is not None:
            slot.token_ids += slot.constraint.advance(token_id)
        return INVALID_TOKEN if row.slot in self.invalid_slots else token_id

    def _extra(self, index: int, row: StepRow, token_id: int | None) -> RowExtra | None:
        slot = self.slots[row.slot]
        opened, constraint = slot.opened, slot.constraint
        if slot.is_lost or (opened.logprobs is None and not opened.returns_hidden_states and constraint is None):
            return None
        if constraint is not None and constraint.failure is not None:
            return RowExtra(row=index, failure=constraint.failure)
        end = row.start + row.num_tokens
        forced_ids, is_complete = self._forced(slot, end) if token_id not in (None, INVALID_TOKEN) else ((), False)
        prefix = self._attend(slot, row)
        logprobs = None
        if opened.logprobs is not None and token_id is not None and token_id >= 0:
            logprobs = logprobs_after(prefix, token_id, opened.logprobs, self.limits.vocab_size)
        return RowExtra(
            row=index,
            logprobs=logprobs,
            prompt_logprobs=self._prompt_logprobs(slot, row, prefix),
            hidden_states=tuple(hidden_state(prefix[: i + 1]) for i in range(row.start, end))
            if opened.returns_hidden_states
            else None,
            forced_ids=forced_ids,
            is_complete=is_complete,
        )

    def _forced(self, slot: Slot, end: int) -> tuple[tuple[int, ...], bool]:
        constraint = slot.constraint
        if constraint is None:
            return (), False
        if not constraint.is_told_ahead:
            return (), end + 1 == len(slot.token_ids) and constraint.is_complete
        start, constraint.num_told = max(end + 1, constraint.num_told), len(slot.token_ids)
        return tuple(slot.token_ids[start:]), constraint.is_complete

    def _prompt_logprobs(self, slot: Slot, row: StepRow, prefix: list[int]) -> TokenLogprobs | None:
        """Of the tokens from `prompt_start` on that follow a token of the row, and of the first one of all."""
        options, num_prompt = slot.opened.logprobs, slot.opened.num_prompt_tokens
        if options is None or options.prompt_start is None:
            return None
        first = max(options.prompt_start, row.start + 1 if row.start else 0)
        parts = [
            logprobs_after(prefix[:i], slot.token_ids[i], options, self.limits.vocab_size)
            for i in range(first, min(row.start + row.num_tokens + 1, num_prompt))
        ]
        return joined_logprobs(parts) if parts else None

    def _attend(self, slot: Slot, row: StepRow) -> list[int]:
        """What the page table leads to at every position up to the row's end."""
        places = [self._place(slot, position) for position in range(row.start + row.num_tokens)]
        for place in places:
            if place not in self.kv:
                raise BrokenPlan(f"slot {row.slot} reads page {place[0]} at offset {place[1]}, which was never written")
            if self.writers[place] != self.weights:
                raise BrokenPlan(f"slot {row.slot} reads page {place[0]} at offset {place[1]}, which other weights wrote")
        return [self.kv[place] for place in places]

    def _masked(self, slot: Slot) -> frozenset[int]:
        num_generated = len(slot.token_ids) - slot.opened.num_prompt_tokens
        masked = slot.opened.masked_token_ids if num_generated < slot.opened.params.min_new_tokens else ()
        return frozenset(masked) | self._forbidden(slot)

    def _forbidden(self, slot: Slot) -> frozenset[int]:
        """Ids that the grammar does not allow."""
        if slot.constraint is None:
            return frozenset()
        slot.constraint.fill_mask()
        bits = np.unpackbits(slot.constraint.mask.view(np.uint8), bitorder="little")[: self.limits.vocab_size]
        return frozenset(np.flatnonzero(bits == 0).tolist())

    def _lose(self, plan: StepPlan) -> None:
        """The plan failed after its slots and pages were changed: its sequences have gaps from now on."""
        self._apply(plan)
        for row in plan.rows:
            self.slots[row.slot].is_lost = True
