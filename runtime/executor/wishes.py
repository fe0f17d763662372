"""What sequences want beside their tokens: log probabilities and hidden states.

Pure. Before a step a wish says which outputs of the model its row needs; after it, `grant` reads them. Outputs are turned into
logits a few rows at a time, so that a long prompt costs no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runtime.errors import Failure, InternalError
from runtime.messages import SlotOpen, TokenLogprobs, joined_logprobs
from runtime.params import LogprobOptions
from runtime.sampling.logprobs import after_nothing, token_logprobs

ROWS_PER_SLICE = 32
"""Rows of logits in memory at a time, for log probabilities of a prompt."""
INVALID_NUMBERS = InternalError("the model produced invalid numbers for this request").failure

Ints = npt.NDArray[np.int64]
ToLogits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Wish:
    """What one sequence wants of each of its rows."""

    logprobs: LogprobOptions | None
    returns_hidden_states: bool
    num_prompt_tokens: int

    def prompt_positions(self, start: int, end: int) -> tuple[int, int]:
        """Of a row for positions `start` to `end`: from which to which its logits are about wanted prompt tokens."""
        if self.logprobs is None or self.logprobs.prompt_start is None:
            return start, start
        first = max(start, self.logprobs.prompt_start - 1)
        return first, max(first, min(end, self.num_prompt_tokens - 1))

    def begins_prompt(self, start: int) -> bool:
        """Whether the first token of the prompt, which no logits are about, belongs to the row that begins at `start`."""
        return start == 0 and self.logprobs is not None and self.logprobs.prompt_start == 0


@dataclass(frozen=True, slots=True)
class WishRow:
    """A row of a step whose sequence has a wish. Slices count the outputs of the model in extents."""

    wish: Wish
    sampled: int | None
    """Which of the rows of logits its result comes from; None if the row is not sampled."""
    prompt: slice
    """The outputs whose logits are about wanted prompt tokens."""
    outputs: slice
    """All outputs of the row, if hidden states are wanted."""
    first_id: int
    """The first token of the row."""
    prompt_ids: Ints
    """[prompt] the prompt tokens that the logits of `prompt` are about."""
    begins_prompt: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """What a row brings beside its token."""

    logprobs: TokenLogprobs | None = None
    prompt_logprobs: TokenLogprobs | None = None
    hidden_states: tuple[tuple[float, ...], ...] | None = None
    failure: Failure | None = None


NOTHING = Granted()


def wish_of(opened: SlotOpen) -> Wish | None:
    """None for most."""
    if opened.logprobs is None and not opened.returns_hidden_states:
        return None
    return Wish(opened.logprobs, opened.returns_hidden_states, opened.num_prompt_tokens)


def grant(row: WishRow, token_ids: Sequence[int], logits: Tensor, hidden: Tensor, to_logits: ToLogits) -> Granted:
    """Fulfil a wish.

    token_ids: the row's result, if it has a valid one; logits: [sampled, vocab] the model's own; hidden: [extents, hidden]
    outputs of the model.
    """
    options, sampled, prompt, states = row.wish.logprobs, None, None, None
    if options is not None and row.sampled is not None and token_ids:
        sampled = token_logprobs(logits[row.sampled, None].numpy(), np.array(token_ids), options)
        if sampled is None:
            return Granted(failure=INVALID_NUMBERS)
    if options is not None and (row.begins_prompt or len(row.prompt_ids)):
        prompt = _prompt_logprobs(row, options, hidden, to_logits)
        if prompt is None:
            return Granted(failure=INVALID_NUMBERS)
    if row.wish.returns_hidden_states:
        states = tuple(map(tuple, hidden[row.outputs].float().tolist()))
    return Granted(sampled, prompt, states) if sampled or prompt or states else NOTHING


def _prompt_logprobs(row: WishRow, options: LogprobOptions, hidden: Tensor, to_logits: ToLogits) -> TokenLogprobs | None:
    parts = [after_nothing(row.first_id, options)] if row.begins_prompt else []
    outputs = hidden[row.prompt]  # [prompt, hidden]
    for start in range(0, len(row.prompt_ids), ROWS_PER_SLICE):
        end = start + ROWS_PER_SLICE
        part = token_logprobs(to_logits(outputs[start:end]).numpy(), row.prompt_ids[start:end], options)
        if part is None:
            return None
        parts.append(part)
    return joined_logprobs(parts)
