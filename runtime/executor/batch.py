"""The batch table: what the executor knows of every slot, and how a plan over it becomes the inputs of a forward pass.

Owns token ids, page tables, lengths and sampling rules per slot, in arrays that live as long as the executor, so that a step
sends only what changed and its inputs are gathered with a few array operations, whatever the number of rows. What few sequences
have, a grammar, a processor or a wish, is in dicts by slot, so that the others pay nothing for it.
Invariant: the first `num_tokens` ids of an open slot are its prompt and all that was sampled or forced by its grammar since,
also while the scheduler does not know the last of them yet. A row that ends before the last of them is not sampled: its result
is the token that is there. A slot in a failed step is lost: it has a gap, so its rows are not run, and their result is
`INVALID_TOKEN`, until the slot is closed or opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from runtime.executor.extras import NO_EXTENSIONS, Extensions, ExtraRow, SlotExtras, open_extras
from runtime.executor.outputs import Outputs
from runtime.executor.port import ExecutorLimits
from runtime.executor.rows import Bools, Ints, Rows, check_pages, check_rows, columns
from runtime.layers.forward import ForwardBatch
from runtime.messages import INVALID_TOKEN, SlotOpen, StepPlan
from runtime.sampling.sampler import SpecialRow
from runtime.sampling.steps import SamplingRules, make_rules


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A plan ready to run. The results of its sampled rows go back through `BatchTable.commit`."""

    batch: ForwardBatch | None
    """None if there is nothing to compute."""
    rows: Rows
    """The rows that run."""
    chosen: Rows
    """Those for which the sampler chooses, in order; the first outputs of the model are theirs."""
    special_rows: list[SpecialRow]
    extra_rows: list[ExtraRow]
    num_logits: int
    """How many of the model's first outputs are wanted as logits at once."""
    is_result: Bools
    """[sampled rows of the plan] False for those that do not run, because their slot is lost."""


class BatchTable:
    """The state of all slots. Not thread-safe: the executor's worker owns it."""

    def __init__(self, limits: ExecutorLimits, extensions: Extensions = NO_EXTENSIONS) -> None:
        self._limits = limits
        self._extensions = extensions
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
        self._extras: dict[int, SlotExtras] = {}

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
        return self._gather(columns(plan.rows))

    def commit(self, step: PreparedStep, token_ids: Ints) -> tuple[int, ...]:
        """Append the sampled `token_ids` [chosen rows] to their slots; returns the answer to the plan."""
        chosen, sampled = step.chosen, step.rows.keep(step.rows.samples)
        # An invalid token ends its request, but a row planned meanwhile still has to find an id that can be looked up.
        self._token_ids[chosen.slots, chosen.ends] = np.maximum(token_ids, 0)
        self._num_tokens[chosen.slots] = chosen.ends + 1
        results = np.full(len(step.is_result), INVALID_TOKEN, dtype=np.int64)
        if len(chosen.slots) == len(sampled.slots):
            results[step.is_result] = token_ids
        else:  # some were known already
            known = self._token_ids[sampled.slots, sampled.ends].astype(np.int64)
            known[np.isin(sampled.indices, chosen.indices)] = token_ids
            results[step.is_result] = known
        return tuple(results.tolist())

    def append(self, slot: int, token_ids: Sequence[int]) -> None:
        """Add ids that have to follow; what does not fit in the context any more is left out."""
        start = int(self._num_tokens[slot])
        token_ids = token_ids[: self._token_ids.shape[1] - start]
        self._token_ids[slot, start : start + len(token_ids)] = token_ids
        self._num_tokens[slot] += len(token_ids)

    def known_ids(self, slot: int, start: int) -> list[int]:
        """The ids of a slot from position `start` on."""
        ids: list[int] = self._token_ids[slot, start : self._num_tokens[slot]].tolist()
        return ids

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
        self._extras.pop(slot, None)

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
        self._open_extras(opened)

    def _open_extras(self, opened: SlotOpen) -> None:
        extras = open_extras(opened, self._extensions, self._limits.vocab_size)
        if extras is None:
            return
        self._extras[opened.slot] = extras
        self._is_special[opened.slot] |= extras.is_sampled_specially
        if extras.constraint is not None:
            self.append(opened.slot, extras.constraint.follow(opened.token_ids[opened.num_prompt_tokens :]))

    def _append_pages(self, slot: int, pages: tuple[int, ...]) -> None:
        start = int(self._num_pages[slot])
        check_pages(slot, start, pages, self._pages.shape[1], self._limits.num_pages)
        self._num_pages[slot] = end = start + len(pages)
        self._pages[slot, start:end] = pages

    def _gather(self, rows: Rows) -> PreparedStep:
        is_lost = self._is_lost[rows.slots]
        is_result = ~is_lost[rows.samples]
        if is_lost.any():
            rows = rows.keep(~is_lost)
        check_rows(rows, self._num_tokens, self._num_pages, self._limits.page_size, self._is_constrained)
        is_chosen = rows.samples & (rows.ends == self._num_tokens[rows.slots])
        chosen = rows.keep(is_chosen)
        outputs = Outputs(rows, is_chosen)
        extra_rows = self._extra_rows(rows, chosen, outputs) if self._extras else []
        batch = self._forward_batch(rows, outputs.tokens()) if len(rows.slots) else None
        special_rows = self._special_rows(chosen)
        return PreparedStep(batch, rows, chosen, special_rows, extra_rows, outputs.num_logits, is_result)

    def _is_constrained(self, slot: int) -> bool:
        extras = self._extras.get(slot)
        return extras is not None and extras.constraint is not None

    def _forward_batch(self, rows: Rows, wanted: Ints) -> ForwardBatch:
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
            logit_rows=torch.from_numpy(wanted),
        )

    def _special_rows(self, chosen: Rows) -> list[SpecialRow]:
        special: list[SpecialRow] = []
        for index in np.flatnonzero(self._is_special[chosen.slots]).tolist():
            slot = int(chosen.slots[index])
            rules = self._rules[slot]
            assert rules is not None, "the row was checked, so its slot is open"
            row = SpecialRow(index, rules, self._token_ids[slot, : chosen.ends[index]])
            extras = self._extras.get(slot)
            special.append(row if extras is None else extras.extend(row))
        return special

    def _extra_rows(self, rows: Rows, chosen: Rows, outputs: Outputs) -> list[ExtraRow]:
        places = {slot: place for place, slot in enumerate(chosen.slots.tolist())}
        found: list[ExtraRow] = []
        for index, slot in enumerate(rows.slots.tolist()):
            extras = self._extras.get(slot)
            if extras is not None:
                wish = (
                    None if extras.wish is None else outputs.want(extras.wish, index, places.get(slot), self._token_ids[slot])
                )
                row, end, is_sampled = int(rows.indices[index]), int(rows.ends[index]), bool(rows.samples[index])
                found.append(ExtraRow(row, slot, end, is_sampled, places.get(slot), extras, wish))
        return found
