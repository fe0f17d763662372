"""The body of `/v1/completions`."""

from __future__ import annotations

from typing import Any

from runtime.errors import Unsupported
from runtime.http.generation import Generation
from runtime.http.schema import openai
from runtime.http.schema.choices import Caller, choices_of
from runtime.http.schema.decoding import UNREAD, Unread, refuse
from runtime.http.schema.prompts import RawPrompt, check_num_sequences, parse_prompts

DEFAULT_MAX_TOKENS = 16

NOT_YET: dict[str, tuple[Any, ...]] = openai.NOT_YET | {"logprobs": (False,), "echo": (False,), "suffix": ("",)}


class CompletionRequest(openai.OpenAiRequest, kw_only=True, forbid_unknown_fields=True):
    prompt: RawPrompt
    best_of: int | None = None

    logprobs: Unread = UNREAD
    echo: Unread = UNREAD
    suffix: Unread = UNREAD


def generations_of(request: CompletionRequest, caller: Caller) -> list[Generation]:
    """The sequences to generate, prompt by prompt. Raises `RequestError`."""
    openai.check_model(request.model, caller.info)
    openai.check_stream_options(request)
    refuse(request, NOT_YET)
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    params, text, n = openai.options_of(request, max_tokens, "max_tokens", caller.info)
    _check_best_of(request.best_of, n)
    prompts = parse_prompts(request.prompt, "prompt", caller.info)
    check_num_sequences(n * len(prompts), "n")
    label = request.rid or caller.label
    templates = [
        Generation(prompt=prompt, params=params, text=text, priority=request.priority or 0, label=label) for prompt in prompts
    ]
    return [choice for template in templates for choice in choices_of(template, n, request.seed, caller.draw_seed)]


def _check_best_of(best_of: int | None, n: int) -> None:
    if best_of is not None and best_of != n:
        raise Unsupported("best_of is only supported with the value of n", param="best_of")
