"""Requests on their way in: from the door over the tokenizer to the scheduler, and how they are aborted."""

from __future__ import annotations

from typing import Literal

from runtime.messages.message import Message
from runtime.params import GrammarSpec, LogprobOptions, Prompt, SamplingParams, TextOptions


class Tokenize(Message, frozen=True, kw_only=True):
    """Http → Tokenizer: one sequence to generate (n choices are n of these that share one `prompt` object)."""

    request_id: int
    prompt: Prompt
    params: SamplingParams
    text: TextOptions
    grammar: GrammarSpec | None = None
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False
    priority: int = 0
    arrived: float = 0.0
    """Seconds on the monotonic clock."""


class Admit(Message, frozen=True, kw_only=True):
    """Tokenizer → Scheduler: a sequence whose token ids are known and checked against the logits width."""

    request_id: int
    token_ids: tuple[int, ...]
    params: SamplingParams
    text: TextOptions
    grammar_key: str | None = None
    """Set together with `grammar`, and the same for the same one."""
    grammar: GrammarSpec | None = None
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False
    priority: int = 0
    arrived: float = 0.0


class Tokenized(Message, frozen=True, kw_only=True):
    """Tokenizer → Http: how long the prompt is, for replies that end before their first row."""

    request_id: int
    num_prompt_tokens: int


AbortCause = Literal["disconnect", "stop_string", "deadline", "api", "restart"]


class Abort(Message, frozen=True, kw_only=True):
    """Http → Tokenizer → Scheduler, or Detokenizer → Scheduler (a stop string matched).

    Unknown ids are normal: the request may have ended in the meantime.
    """

    request_id: int
    cause: AbortCause
