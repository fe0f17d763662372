"""The host's half of the batch table of a device: counts, generations and extras of every slot, and what changes in a step.

It never holds a token that is still being computed: the number of tokens of a slot follows from the plans alone, so that a step
can be prepared while the one before it runs. Only what a grammar forces comes later, through `inbox`, together with the news
that a sequence was lost when its step was completed.
Owned by the launcher's thread; `inbox` may be written to by others. Invariants as in `batch.BatchTable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from kernels.sampling import Needs, SlotRules
from runtime.executor.extras import Extensions, open_extras
from runtime.executor.followed import Followed, Forced, Lost
from runtime.executor.port import ExecutorLimits
from runtime.executor.rows import Bools, Ints, Rows, check_pages, check_rows, columns
from runtime.executor.table_changes import TableChanges
from runtime.messages import SlotOpen, StepPlan
from runtime.sampling.steps import SamplingRules, make_rules


@dataclass(frozen=True, slots=True)
class HostStep:
    """What the host knows of a step before it runs."""

    rows: Rows
    """The rows that run."""
    sampled: Rows
    """Those with a result, in order."""
    is_result: Bools
    """[sampled rows of the plan] False for those that do not run, because their slot is lost."""
    followed: list[tuple[int, Followed]]
    """(index into `rows`, sequence) of the rows with extras."""
    needs: Needs
    changes: TableChanges
    num_pages: int
    """Pages of the longest row."""

    @property
    def is_decode(self) -> bool:
        """Every row computes one token and chooses the next."""
        return bool(self.rows.samples.all() and (self.rows.ends - self.rows.starts == 1).all())


class SlotBook:
    """Not thread-safe, but for `inbox`."""

    def __init__(self, limits: ExecutorLimits, extensions: Extensions) -> None:
        self.inbox: SimpleQueue[Forced | Lost] = SimpleQueue()
        self.rules = SlotRules.allocate(limits.num_slots + 1, "cpu")
        self._limits = limits
        self._extensions = extensions
        self._max_pages = -(-limits.context_length // limits.page_size)
        num_slots = limits.num_slots
        self._num_tokens = np.zeros(num_slots, dtype=np.int64)
        self._num_pages = np.zeros(num_slots, dtype=np.int64)
        self._generations = np.zeros(num_slots, dtype=np.int64)
        self._is_lost = np.zeros(num_slots, dtype=np.bool_)
        self._draws, self._filters, self._edits = np.zeros((3, num_slots), dtype=np.bool_)
        self._followed: dict[int, Followed] = {}
        self._unsent: list[Forced] = []

    def clear(self) -> None:
        """Close every slot."""
        for slot in range(self._limits.num_slots):
            self._close(slot)

    def prepare(self, plan: StepPlan) -> HostStep:
        """Apply the plan's closes, opens and new pages.

        Raises `ValueError` or `IndexError` on a plan that does not fit the table.
        """
        self._read_inbox()
        changes = TableChanges()
        for slot in plan.closes:
            self._close(slot)
        for opened in plan.opens:
            self._open(opened, changes)
        for row in plan.rows:
            if row.new_pages:
                self._check_slot(row.slot)
                self._append_pages(row.slot, row.new_pages, changes)
        self._unsent = [forced for forced in self._unsent if self._is_current(forced)]
        for forced in self._unsent:
            changes.write_tokens(forced.slot, forced.start, forced.token_ids)
        return self._step(columns(plan.rows), changes)

    def sent(self) -> None:
        """The changes of the last step have gone to the device."""
        self._unsent.clear()

    def launched(self, step: HostStep) -> None:
        """The step will append one token to each of its sampled rows."""
        slots = step.sampled.slots
        self._num_tokens[slots] = np.maximum(self._num_tokens[slots], step.sampled.ends + 1)

    def lose(self, plan: StepPlan) -> None:
        """The plan failed: its slots miss keys, values or a token from now on."""
        for slot in (*(opened.slot for opened in plan.opens), *(row.slot for row in plan.rows)):
            if 0 <= slot < self._limits.num_slots:
                self._is_lost[slot] = True

    def sequences(self, rows: Rows) -> Ints:
        """[2, rows] slots and generations: whom to call lost if the step can not be completed."""
        return np.stack((rows.slots, self._generations[rows.slots]))

    def _read_inbox(self) -> None:
        while not self.inbox.empty():
            news = self.inbox.get()
            if not self._is_current(news):
                continue
            if isinstance(news, Lost):
                self._is_lost[news.slot] = True
            else:
                self._unsent.append(news)
                end = news.start + len(news.token_ids)
                self._num_tokens[news.slot] = max(int(self._num_tokens[news.slot]), end)

    def _is_current(self, news: Forced | Lost) -> bool:
        return bool(self._generations[news.slot] == news.generation)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self._limits.num_slots:
            raise IndexError(f"there is no slot {slot}: they are {self._limits.num_slots}")

    def _close(self, slot: int) -> None:
        self._num_tokens[slot] = 0
        self._num_pages[slot] = 0
        self._is_lost[slot] = False
        self._generations[slot] += 1
        self._followed.pop(slot, None)

    def _open(self, opened: SlotOpen, changes: TableChanges) -> None:
        slot, num_tokens = opened.slot, len(opened.token_ids)
        self._check_slot(slot)
        if num_tokens > self._limits.context_length:
            raise ValueError(f"slot {slot} opens with {num_tokens} tokens; the context has {self._limits.context_length}")
        self._close(slot)
        rules = make_rules(opened.params, opened.num_prompt_tokens, opened.masked_token_ids, self._limits.vocab_size)
        self._set_rules(slot, rules, changes)
        token_ids = [*opened.token_ids, *self._follow(opened, rules)]
        self._num_tokens[slot] = len(token_ids)
        changes.write_tokens(slot, 0, token_ids)
        self._append_pages(slot, opened.pages, changes)

    def _follow(self, opened: SlotOpen, rules: SamplingRules) -> list[int]:
        """Note the sequence's extras; returns the ids that its grammar appends at once."""
        extras = open_extras(opened, self._extensions, self._limits.vocab_size)
        if extras is None:
            return []
        max_tokens = self._limits.context_length + 1
        followed = Followed(opened, int(self._generations[opened.slot]), extras, rules, max_tokens)
        self._followed[opened.slot] = followed
        if extras.constraint is None:
            return []
        return list(followed.append(extras.constraint.follow(opened.token_ids[opened.num_prompt_tokens :])))

    def _set_rules(self, slot: int, rules: SamplingRules, changes: TableChanges) -> None:
        params = rules.params
        self._edits[slot] = rules.has_edits
        self._draws[slot] = not params.is_greedy
        has_filter = params.top_p < 1.0 or params.min_p > 0.0 or 0 < params.top_k < self._limits.vocab_size
        self._filters[slot] = has_filter and not params.is_greedy
        self.rules.set(
            slot,
            seed=params.seed,
            temperature=0.0 if params.is_greedy else params.temperature,
            top_k=max(params.top_k, 0),
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            num_prompt_tokens=rules.num_prompt_tokens,
            min_length=rules.num_prompt_tokens + params.min_new_tokens,
            masked_ids=rules.masked_ids.tolist(),
            biases=dict(zip(rules.bias_ids.tolist(), rules.bias_values.tolist(), strict=True)),
        )
        changes.write_rules(slot, has_lists=bool(rules.masked_ids.size or rules.bias_ids.size))

    def _append_pages(self, slot: int, pages: tuple[int, ...], changes: TableChanges) -> None:
        start = int(self._num_pages[slot])
        check_pages(slot, start, pages, self._max_pages, self._limits.num_pages)
        self._num_pages[slot] = start + len(pages)
        changes.write_pages(slot, start, pages)

    def _step(self, rows: Rows, changes: TableChanges) -> HostStep:
        is_lost = self._is_lost[rows.slots]
        is_result = ~is_lost[rows.samples]
        if is_lost.any():
            rows = rows.keep(~is_lost)
        check_rows(rows, self._num_tokens, self._num_pages, self._limits.page_size, self._is_constrained)
        sampled = rows.keep(rows.samples)
        return HostStep(
            rows=rows,
            sampled=sampled,
            is_result=is_result,
            followed=self._followed_rows(rows) if self._followed else [],
            needs=self._needs(sampled.slots),
            changes=changes,
            num_pages=-(-int(rows.ends.max(initial=0)) // self._limits.page_size),
        )

    def _followed_rows(self, rows: Rows) -> list[tuple[int, Followed]]:
        slots = enumerate(rows.slots.tolist())
        return [(index, followed) for index, slot in slots if (followed := self._followed.get(slot)) is not None]

    def _needs(self, slots: Ints) -> Needs:
        flags = (self._draws, self._filters, self._edits)
        return Needs(*(bool(flag[slots].any()) for flag in flags))

    def _is_constrained(self, slot: int) -> bool:
        followed = self._followed.get(slot)
        return followed is not None and followed.extras.constraint is not None
