"""Results on their way out: token ids to the detokenizer, text to the door."""

from __future__ import annotations

from typing import Literal

import msgspec

from runtime.errors import Failure
from runtime.messages.logprobs import TokenLogprobs
from runtime.messages.message import Message
from runtime.params import TextOptions

FinishType = Literal["stop", "length", "abort"]


class Finish(msgspec.Struct, frozen=True):
    """Why a sequence ended. `matched` is the stop string or stop token id; `length` the token limit that was reached."""

    type: FinishType
    matched: str | int | None = None
    length: int | None = None


class TextOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence produces its first tokens. `prompt_ids` is the tail of the prompt that decoding may need for context."""

    request_id: int
    text: TextOptions
    prompt_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_cached_tokens: int


class TokenRow(msgspec.Struct, frozen=True):
    """New tokens of one sequence; `finish` is set on its last row. A stop token id that ended it is in `token_ids`."""

    request_id: int
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    logprobs: TokenLogprobs | None = None
    """One entry per id of `token_ids`."""
    prompt_logprobs: TokenLogprobs | None = None
    hidden_states: tuple[tuple[float, ...], ...] | None = None


class TokenBatch(Message, frozen=True, kw_only=True):
    """Scheduler → Detokenizer: one step's results. `closes` are sequences that ended without a result row."""

    step_id: int
    opens: tuple[TextOpen, ...] = ()
    rows: tuple[TokenRow, ...] = ()
    closes: tuple[int, ...] = ()


class TextRow(msgspec.Struct, frozen=True, kw_only=True):
    """New text of one sequence. With `finish` it is the one terminal message of a request that succeeded."""

    request_id: int
    text: str
    """The new piece only; an incomplete UTF-8 tail and a possible beginning of a stop string are held back."""
    token_ids: tuple[int, ...]
    num_completion_tokens: int
    """Since the start of the sequence."""
    num_prompt_tokens: int
    num_cached_tokens: int
    finish: Finish | None = None
    logprobs: TokenLogprobs | None = None
    """One entry per id of `token_ids`."""
    prompt_logprobs: TokenLogprobs | None = None
    """Once, on the first row, for all prompt tokens that were asked for."""
    token_texts: dict[int, bytes] = {}
    """The bytes of every token id that the log probabilities name."""
    hidden_states: tuple[tuple[float, ...], ...] | None = None


class TextBatch(Message, frozen=True, kw_only=True):
    """Detokenizer → Http: one step's text."""

    rows: tuple[TextRow, ...]


class RequestFailed(Message, frozen=True, kw_only=True):
    """Any → Http: the one terminal message of a request that failed."""

    request_id: int
    failure: Failure
