"""Scheduler ⇄ executor: what a step computes, and what comes of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from runtime.errors import Failure
from runtime.messages.logprobs import TokenLogprobs
from runtime.messages.message import Message
from runtime.params import LogprobOptions, SamplingParams


class SlotOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence takes a slot in the executor's batch table."""

    slot: int
    token_ids: tuple[int, ...]
    """Prompt, and after a retraction also what was generated before it."""
    num_prompt_tokens: int
    """How many of `token_ids` are the client's prompt; penalties and counts need to know."""
    pages: tuple[int, ...]
    params: SamplingParams
    masked_token_ids: tuple[int, ...] = ()
    """Ids that may not be sampled while fewer than `params.min_new_tokens` tokens are generated."""
    grammar_key: str | None = None
    """The compiled grammar that the executor finds in the store which it shares with the Grammar actor."""
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """Compute `num_tokens` tokens of a slot, from position `start`.

    A token at a position that `SlotOpen.token_ids` does not cover is the one sampled by the step before, which the executor
    still holds: the scheduler plans it without knowing it.
    """

    slot: int
    start: int
    num_tokens: int
    new_pages: tuple[int, ...] = ()
    """Appended to the slot's page table before the step runs."""
    sample: bool
    """Whether the row ends at the last known token, so that its logits choose the next one."""


class StepPlan(Message, frozen=True, kw_only=True):
    """Scheduler → executor: one forward pass. `closes` are applied first, then `opens`, then the rows run."""

    step_id: int
    closes: tuple[int, ...] = ()
    opens: tuple[SlotOpen, ...] = ()
    rows: tuple[StepRow, ...]


INVALID_TOKEN = -1
"""Stands in `StepDone.token_ids` for a row whose logits were not finite: that request alone fails."""


class RowExtra(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of a step brings beside its token. Most rows have none."""

    row: int
    """Index into the plan's rows."""
    logprobs: TokenLogprobs | None = None
    """Of the sampled token."""
    prompt_logprobs: TokenLogprobs | None = None
    """Of the prompt tokens that this row's logits are about, in order; rows of one prompt follow each other without a gap."""
    hidden_states: tuple[tuple[float, ...], ...] | None = None
    """[tokens of the row][hidden]: the last layer's normed output."""
    forced_ids: tuple[int, ...] = ()
    """Tokens that the grammar leaves no choice about, after the sampled one. The executor has appended them to the slot."""
    is_complete: bool = False
    """The grammar allows nothing more: the sequence ends here."""
    failure: Failure | None = None
    """This request alone fails, for example because its logit processor raised."""


GRAMMAR_DROPPED = "grammar_dropped"
"""Code of a failure: the grammar was announced as ready, but the store does not have it any more."""


class StepDone(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: sampled ids, in the order of the plan's rows with `sample` set."""

    step_id: int
    token_ids: tuple[int, ...]
    extras: tuple[RowExtra, ...] = ()
    device_us: int = 0
    """Time inside the model's forward pass and the sampler."""
    host_us: int = 0
    """Time spent preparing inputs and reading results."""


class StepFailed(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: the step raised. Its requests fail; if `is_fatal` the engine group is lost."""

    step_id: int
    reason: str
    is_fatal: bool = False
    lost: Literal["engine", "rank", "device"] = "engine"
    """What is, if `is_fatal`. Another engine can be started in its place, another rank or device can not."""
