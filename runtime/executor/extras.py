"""What few sequences have beside tokens and pages: a grammar, a custom processor, a wish for more than tokens.

`SlotExtras` are opened with their slot; an `ExtraRow` is the part that they have in one step, and becomes the row's `RowExtra`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from runtime.errors import Failure, InvalidRequest
from runtime.executor.constraint import Constraint
from runtime.executor.wishes import NOTHING, Granted, Wish, WishRow, wish_of
from runtime.messages import RowExtra, SlotOpen
from runtime.sampling.logit_processor import ProcessorCall, Processors
from runtime.sampling.matcher import Matcher, MatcherSource
from runtime.sampling.sampler import SpecialRow

Grant = Callable[[WishRow, Sequence[int]], Granted]
"""(wish, the row's result, if it has a valid one) → what was wished for."""


@dataclass(frozen=True, slots=True)
class Extensions:
    """What slots may be opened with, given when the executor is built."""

    matchers: MatcherSource
    processors: Processors
    jumps_forward: bool = True


class NoGrammars:
    """A source of matchers where no grammar was ever compiled."""

    def open(self, key: str) -> Matcher:
        raise KeyError(key)


NO_GRAMMARS = NoGrammars()
NO_EXTENSIONS = Extensions(matchers=NO_GRAMMARS, processors={})


@dataclass(frozen=True, slots=True)
class SlotExtras:
    """At least one of these is set."""

    constraint: Constraint | None
    processor: ProcessorCall | None
    wish: Wish | None
    refusal: Failure | None = None
    """Why the sequence can not run at all."""

    @property
    def failure(self) -> Failure | None:
        """Why the sequence can not go on."""
        if self.constraint is not None and self.constraint.failure is not None:
            return self.constraint.failure
        return self.refusal if self.processor is None else self.processor.failure

    @property
    def is_sampled_specially(self) -> bool:
        return self.constraint is not None or self.processor is not None

    def extend(self, row: SpecialRow) -> SpecialRow:
        """`row` with what the sampler has to know of the extras."""
        mask = None if self.constraint is None else self.constraint.mask
        keeps_logits = self.wish is not None and self.wish.logprobs is not None
        return replace(row, processor=self.processor, mask=mask, keeps_logits=keeps_logits)


def open_extras(opened: SlotOpen, extensions: Extensions, vocab_size: int) -> SlotExtras | None:
    """None for most slots."""
    name, wish = opened.params.logit_processor, wish_of(opened)
    if wish is None and name is None and opened.grammar_key is None:
        return None
    constraint = processor = refusal = None
    if opened.grammar_key is not None:
        constraint = Constraint(opened, extensions.matchers, vocab_size, jumps_forward=extensions.jumps_forward)
    if name is not None and name in extensions.processors:
        custom_params = opened.params.custom_params or {}
        processor = ProcessorCall(name, extensions.processors[name], opened.num_prompt_tokens, custom_params)
    elif name is not None:
        refusal = InvalidRequest(f"no logit processor is called {name!r}", param="custom_logit_processor").failure
    return SlotExtras(constraint, processor, wish, refusal)


@dataclass(frozen=True, slots=True)
class ExtraRow:
    """A row of a step whose slot has extras."""

    row: int
    """Index into the plan's rows."""
    slot: int
    end: int
    """The position of the row's result."""
    is_sampled: bool
    """The plan wants a result."""
    chosen: int | None
    """Which of the rows that the sampler chose for; None if the result was known."""
    extras: SlotExtras
    wish: WishRow | None

    def fill_mask(self) -> None:
        if self.chosen is not None and self.extras.constraint is not None:
            self.extras.constraint.fill_mask()

    def advance(self, token_id: int) -> list[int]:
        """Tell the grammar what was sampled; returns the ids that have to follow."""
        constraint = self.extras.constraint
        if self.chosen is None or constraint is None or token_id < 0 or self.extras.failure is not None:
            return []
        return constraint.advance(token_id)

    def report(self, known_ids: list[int], grant: Grant) -> RowExtra | None:
        """What the row brings beside its token, if anything.

        known_ids: the ids of the slot from the row's result on, none without a valid result. grant: fulfils the row's wish.
        """
        if (failure := self.extras.failure) is not None:
            return RowExtra(row=self.row, failure=failure)
        granted = NOTHING if self.wish is None else grant(self.wish, known_ids[:1])
        forced_ids, is_complete = self._forced(known_ids) if known_ids else ((), False)
        if granted is NOTHING and not forced_ids and not is_complete:
            return None
        return RowExtra(
            row=self.row,
            logprobs=granted.logprobs,
            prompt_logprobs=granted.prompt_logprobs,
            hidden_states=granted.hidden_states,
            forced_ids=forced_ids,
            is_complete=is_complete,
            failure=granted.failure,
        )

    def _forced(self, known_ids: list[int]) -> tuple[tuple[int, ...], bool]:
        """The ids after the result that the scheduler is told now, and whether the sequence ends with the last one told."""
        constraint = self.extras.constraint
        if constraint is None:
            return (), False
        if not constraint.is_told_ahead:
            return (), len(known_ids) == 1 and constraint.is_complete
        num_told = max(constraint.num_told - self.end, 1)
        constraint.num_told = self.end + len(known_ids)
        return tuple(known_ids[num_told:]), constraint.is_complete
