"""The batch table: what the executor knows of every slot, and how a plan over it becomes the inputs of a forward pass.

Owns token ids, page tables, lengths and sampling rules per slot, in arrays that live as long as the executor, so that a step
sends only what changed and its inputs are gathered with a few array operations, whatever the number of rows.
Invariant: the first `num_tokens` ids of an open slot are its prompt and all that was sampled since, also while the scheduler
does not know the last of them yet. A slot in a failed step is lost: it has a gap, so its rows are not run, and their
result is `INVALID_TOKEN`, until the slot is closed or opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime.executor.port import ExecutorLimits
from runtime.layers.forward import ForwardBatch
from runtime.messages import INVALID_TOKEN, SlotOpen, StepPlan, StepRow
from runtime.sampling.sampler import SpecialRow
from runtime.sampling.steps import SamplingRules, make_rules

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a plan as columns, each [rows]."""

    slots: Ints
    starts: Ints
    ends: Ints
    samples: Bools

    def keep(self, mask: Bools) -> Rows:
        return Rows(self.slots[mask], self.starts[mask], self.ends[mask], self.samples[mask])


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A plan ready to run. The results of its sampled rows go back through `BatchTable.commit`."""

    batch: ForwardBatch | None
    """None if there is nothing to compute."""
    rows: Rows
    """The rows that run."""
    special_rows: list[SpecialRow]
    is_result: Bools
    """[sampled rows of the plan] False for those that do not run, because their slot is lost."""


class BatchTable:
    """The state of all slots. Not thread-safe: the executor's worker owns it."""

    def __init__(self, limits: ExecutorLimits) -> None:
        self._limits = limits
        num_slots = limits.num_slots
        max_pages = -(-limits.context_length // limits.page_size)
        # Zeros are valid ids and pages, and come from the system untouched, so that unused slots cost no memory.
        self._token_ids = np.zeros((num_slots, limits.context_length + 1), dtype=np.int32)
        self._pages = np.zeros((num_slots, max_pages), dtype=np.int32)
        self._num_tokens = np.zeros(num_slots, dtype=np.int64)
        self._num_pages = np.zeros(num_slots, dtype=np.int64)
        self._is_lost = np.zeros(num_slots, dtype=np.bool_)
        self._is_special = np.zeros(num_slots, dtype=np.bool_)
        self._rules: list[SamplingRules | None] = [None] * num_slots

    def clear(self) -> None:
        """Close every slot."""
        for slot in range(self._limits.num_slots):
            self._close(slot)

    def prepare(self, plan: StepPlan) -> PreparedStep:
        """Apply the plan's closes, opens and new pages, and gather the inputs of its rows.

        Raises `ValueError` or `IndexError` on a plan that does not fit the table.
        """
        for slot in plan.closes:
            self._close(slot)
        for opened in plan.opens:
            self._open(opened)
        for row in plan.rows:
            if row.new_pages:
                self._append_pages(row.slot, row.new_pages)
        return self._gather(_columns(plan.rows))

    def commit(self, step: PreparedStep, token_ids: Ints) -> tuple[int, ...]:
        """Append the sampled `token_ids` [sampled rows that ran] to their slots; returns the answer to the plan."""
        sampled = step.rows.keep(step.rows.samples)
        # An invalid token ends its request, but a row planned meanwhile still has to find an id that can be looked up.
        self._token_ids[sampled.slots, sampled.ends] = np.maximum(token_ids, 0)
        self._num_tokens[sampled.slots] = sampled.ends + 1
        results = np.full(len(step.is_result), INVALID_TOKEN, dtype=np.int64)
        results[step.is_result] = token_ids
        return tuple(results.tolist())

    def lose(self, plan: StepPlan) -> None:
        """The plan failed: its slots miss keys, values or a token from now on."""
        for slot in (*(opened.slot for opened in plan.opens), *(row.slot for row in plan.rows)):
            if 0 <= slot < self._limits.num_slots:
                self._is_lost[slot] = True

    def _close(self, slot: int) -> None:
        self._num_tokens[slot] = 0
        self._num_pages[slot] = 0
        self._is_lost[slot] = False
        self._rules[slot] = None

    def _open(self, opened: SlotOpen) -> None:
        slot, num_tokens = opened.slot, len(opened.token_ids)
        if num_tokens > self._limits.context_length:
            raise ValueError(f"slot {slot} opens with {num_tokens} tokens; the context has {self._limits.context_length}")
        self._close(slot)
        self._token_ids[slot, :num_tokens] = opened.token_ids
        self._num_tokens[slot] = num_tokens
        self._append_pages(slot, opened.pages)
        rules = make_rules(opened.params, opened.num_prompt_tokens, opened.masked_token_ids, self._limits.vocab_size)
        self._rules[slot] = rules
        self._is_special[slot] = rules.has_edits or not opened.params.is_greedy

    def _append_pages(self, slot: int, pages: tuple[int, ...]) -> None:
        start = self._num_pages[slot]
        end = start + len(pages)
        if end > self._pages.shape[1]:
            raise ValueError(f"slot {slot} gets {end} pages; a context has {self._pages.shape[1]}")
        if pages and not 0 <= min(pages) <= max(pages) < self._limits.num_pages:
            raise ValueError(f"slot {slot} gets a page that does not exist: {pages}")
        self._pages[slot, start:end] = pages
        self._num_pages[slot] = end

    def _gather(self, rows: Rows) -> PreparedStep:
        is_lost = self._is_lost[rows.slots]
        is_result = ~is_lost[rows.samples]
        if is_lost.any():
            rows = rows.keep(~is_lost)
        self._check(rows)
        batch = self._forward_batch(rows) if len(rows.slots) else None
        return PreparedStep(batch, rows, self._special_rows(rows), is_result)

    def _check(self, rows: Rows) -> None:
        num_tokens = self._num_tokens[rows.slots]
        is_wrong = (rows.slots < 0) | (rows.starts < 0) | (rows.ends <= rows.starts) | (rows.ends > num_tokens)
        is_wrong |= rows.ends > self._num_pages[rows.slots] * self._limits.page_size
        is_wrong |= rows.samples & (rows.ends != num_tokens)
        if is_wrong.any():
            first = int(is_wrong.argmax())
            slot = int(rows.slots[first])
            raise ValueError(
                f"the row for positions {rows.starts[first]} to {rows.ends[first]} of slot {slot} does not fit its"
                f" {num_tokens[first]} tokens in {self._num_pages[slot]} pages"
            )

    def _forward_batch(self, rows: Rows) -> ForwardBatch:
        page_size = self._limits.page_size
        counts = rows.ends - rows.starts  # [rows]
        query_starts = np.zeros(len(counts) + 1, dtype=np.int32)
        counts.cumsum(out=query_starts[1:])
        positions = np.arange(query_starts[-1]) + np.repeat(rows.starts - query_starts[:-1], counts)  # [tokens]
        token_slots = np.repeat(rows.slots, counts)  # [tokens]
        pages, offsets = np.divmod(positions, page_size)
        write_slots = self._pages[token_slots, pages] * page_size + offsets  # [tokens]
        num_pages = -(-int(rows.ends.max()) // page_size)
        return ForwardBatch(
            token_ids=torch.from_numpy(self._token_ids[token_slots, positions].astype(np.int64)),
            positions=torch.from_numpy(positions.astype(np.int32)),
            query_starts=torch.from_numpy(query_starts),
            kv_lengths=torch.from_numpy(rows.ends.astype(np.int32)),
            page_tables=torch.from_numpy(self._pages[:, :num_pages][rows.slots]),
            write_slots=torch.from_numpy(write_slots.astype(np.int32)),
            logit_rows=torch.from_numpy(query_starts[1:][rows.samples].astype(np.int64) - 1),
        )

    def _special_rows(self, rows: Rows) -> list[SpecialRow]:
        sampled = rows.keep(rows.samples)
        special: list[SpecialRow] = []
        for index in np.flatnonzero(self._is_special[sampled.slots]).tolist():
            slot = int(sampled.slots[index])
            rules = self._rules[slot]
            assert rules is not None, "the row was checked, so its slot is open"
            special.append(SpecialRow(index, rules, self._token_ids[slot, : sampled.ends[index]]))
        return special


def _columns(rows: Sequence[StepRow]) -> Rows:
    starts = np.array([row.start for row in rows], dtype=np.int64)
    return Rows(
        slots=np.array([row.slot for row in rows], dtype=np.int64),
        starts=starts,
        ends=starts + np.array([row.num_tokens for row in rows], dtype=np.int64),
        samples=np.array([row.sample for row in rows], dtype=np.bool_),
    )
