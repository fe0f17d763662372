"""A generation: one sequence that the door has checked and that only has to be submitted."""

from __future__ import annotations

import msgspec

from runtime.params import GrammarSpec, LogprobOptions, Prompt, SamplingParams, TextOptions


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What `Replies.submit` takes, as a value. `label` is the name by which clients may abort it.

    `is_counted` False leaves it out of the metrics.
    """

    prompt: Prompt
    params: SamplingParams
    text: TextOptions
    grammar: GrammarSpec | None = None
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False
    priority: int = 0
    label: str = ""
    is_counted: bool = True
