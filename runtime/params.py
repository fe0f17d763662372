"""What a request asks for, after the door has checked it: immutable values shared by every actor.

The HTTP schemas and the offline engine both build these, so that a limit holds at every door alike.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from runtime.errors import InvalidRequest

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIAS = 1024
MAX_CHOICES = 128
MAX_SEED = 2**63 - 1

GREEDY_TEMPERATURE = 1e-6
"""Below this a temperature means argmax, as in SGLang."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen and when generation ends by count or id.

    `max_new_tokens` None means: fill the context. `top_k` -1 means off. `seed` and the position in the sequence
    alone decide the random draw of each token, so that a result does not depend on its neighbours.
    """

    max_new_tokens: int | None = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int = 0
    logit_processor: str | None = None
    """Name of a class that the operator loaded at start; `custom_params` is what the client wants to tell it."""
    custom_params: dict[str, Any] | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0 or self.repetition_penalty != 1.0

    def check(self) -> None:
        """Raise `InvalidRequest` that names the first field out of range."""
        _integer("max_new_tokens", self.max_new_tokens, 0, 2**31)
        _integer("min_new_tokens", self.min_new_tokens, 0, 2**31)
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidRequest("min_new_tokens must not exceed max_new_tokens", param="min_new_tokens")
        _number("temperature", self.temperature, 0.0, 1e6)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 2.0, open_low=True)
        if self.top_k != -1:
            _integer("top_k", self.top_k, 1, 2**31)
        _integer("seed", self.seed, 0, MAX_SEED)
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequest(f"at most {MAX_STOP_TOKEN_IDS} stop_token_ids are allowed", param="stop_token_ids")
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequest(f"at most {MAX_LOGIT_BIAS} logit_bias entries are allowed", param="logit_bias")
        for bias in self.logit_bias.values():
            _number("logit_bias", bias, -100.0, 100.0)


class TextOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How token ids become text. Opaque to the scheduler; the detokenizer reads it."""

    stop: tuple[str, ...] = ()
    no_stop_trim: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True

    def check(self) -> None:
        """Raise `InvalidRequest` that names the first field out of range."""
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"at most {MAX_STOP_STRINGS} stop strings are allowed", param="stop")
        for stop in self.stop:
            if not 0 < len(stop) <= MAX_STOP_STRING_CHARS:
                raise InvalidRequest(f"a stop string must have 1 to {MAX_STOP_STRING_CHARS} characters", param="stop")


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """Plain text, encoded with the tokenizer's default special tokens. `param` is what the client called it."""

    text: str
    param: str = "prompt"


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat", kw_only=True):
    """Turns for the model's chat template. `turns` are plain dicts as a template sees them."""

    turns: tuple[dict[str, Any], ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_arguments: dict[str, Any] = {}


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids, used as they are: no BOS is added. `param` is what the client called them."""

    token_ids: tuple[int, ...]
    param: str = "prompt"


Prompt = TextPrompt | ChatPrompt | TokenPrompt


class LogprobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which log probabilities come with the tokens: natural logarithms of the softmax of the model's own logits.

    `prompt_start` None: of output tokens only; else also of the prompt's tokens from that position on. The one at position 0
    has none, since nothing precedes it.
    """

    num_top: int = 0
    """How many of the likeliest tokens at each position."""
    token_ids: tuple[int, ...] = ()
    """These tokens too, at each position."""
    prompt_start: int | None = None


class GrammarSpec(msgspec.Struct, frozen=True):
    """A constraint on the output: what kind of grammar, and its source text."""

    kind: Literal["json_schema", "json_object", "regex", "ebnf", "structural_tag"]
    source: str


def _number(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    inside = math.isfinite(value) and (low < value if open_low else low <= value) and value <= high
    if not inside:
        bracket = "(" if open_low else "["
        raise InvalidRequest(f"{name} must be in {bracket}{low:g}, {high:g}]", param=name)


def _integer(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} must be an integer in [{low}, {high}]", param=name)
