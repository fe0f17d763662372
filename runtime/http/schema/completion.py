"""The body of `/v1/completions`."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.schema import openai
from runtime.http.schema.choices import Caller, check_num_choices, choices_of
from runtime.http.schema.decoding import UNREAD, Unread, is_set, refuse
from runtime.http.schema.logprobs import check_num_top
from runtime.http.schema.prompts import RawPrompt, check_num_sequences, parse_prompts
from runtime.params import GrammarSpec, LogprobOptions, Prompt, TextPrompt

DEFAULT_MAX_TOKENS = 16

NOT_YET: dict[str, tuple[Any, ...]] = openai.NOT_YET


class CompletionRequest(openai.OpenAiRequest, kw_only=True, forbid_unknown_fields=True):
    prompt: RawPrompt
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | bool | None = None
    suffix: Unread = UNREAD


class CompletionSequences(msgspec.Struct, frozen=True, kw_only=True):
    """`best_of` sequences for each prompt, of which `n` are shown; `echoes` are the prompts to repeat, one per sequence."""

    generations: list[Generation]
    n: int
    best_of: int
    shows_logprobs: bool
    echoes: list[Prompt] | None
    grammar_param: str | None = None
    """The field that the grammar came from."""


def sequences_of(request: CompletionRequest, caller: Caller) -> CompletionSequences:
    """Prompt by prompt. Raises `RequestError`."""
    openai.check_model(request.model, caller.info)
    openai.check_stream_options(request)
    refuse(request, NOT_YET)
    if is_set(request.suffix):
        raise Unsupported("suffix is not supported: no model here fills in the middle", param="suffix")
    n = check_num_choices(request.n)
    best_of = _best_of(request, n)
    prompts = parse_prompts(request.prompt, "prompt", caller.info)
    check_num_sequences(best_of * len(prompts), "n" if best_of == n else "best_of")
    constraint = openai.constraint_of(request)
    templates = _templates(request, prompts, constraint and constraint[1], best_of > n, caller)
    generations = [one for template in templates for one in choices_of(template, best_of, request.seed, caller.draw_seed)]
    return CompletionSequences(
        generations=generations,
        n=n,
        best_of=best_of,
        shows_logprobs=_num_top(request) is not None,
        echoes=[one.prompt for one in generations] if request.echo else None,
        grammar_param=constraint and constraint[0],
    )


def _templates(
    request: CompletionRequest, prompts: list[Prompt], grammar: GrammarSpec | None, is_ranked: bool, caller: Caller
) -> list[Generation]:
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    at_least = 0 if request.echo else 1
    params, text, _ = openai.options_of(request, max_tokens, "max_tokens", caller.info, min_max_tokens=at_least)
    return [
        Generation(
            prompt=prompt,
            params=params,
            text=text,
            grammar=grammar,
            logprobs=_logprobs(request, prompt, is_ranked),
            priority=request.priority or 0,
            label=request.rid or caller.label,
        )
        for prompt in prompts
    ]


def _best_of(request: CompletionRequest, n: int) -> int:
    best_of = n if request.best_of is None else check_num_choices(request.best_of, "best_of")
    if best_of < n:
        raise InvalidRequest("best_of must not be less than n", param="best_of")
    if best_of > n and request.stream:
        raise InvalidRequest("best_of above n needs whole results: it can not be streamed", param="best_of")
    return best_of


def _num_top(request: CompletionRequest) -> int | None:
    if request.logprobs is None or request.logprobs is False:
        return None
    if request.logprobs is True:
        raise InvalidRequest("logprobs must be a number: how many of the likeliest tokens to return", param="logprobs")
    check_num_top(request.logprobs, "logprobs")
    return request.logprobs


def _logprobs(request: CompletionRequest, prompt: Prompt, is_ranked: bool) -> LogprobOptions | None:
    """Also those that only we need: to rank results, and to know the text of a prompt that came as ids."""
    num_top = _num_top(request)
    needs_text = bool(request.echo) and not isinstance(prompt, TextPrompt)
    if num_top is None and not is_ranked and not needs_text:
        return None
    is_echoed = bool(request.echo) and (num_top is not None or needs_text)
    return LogprobOptions(num_top=num_top or 0, prompt_start=0 if is_echoed else None)
