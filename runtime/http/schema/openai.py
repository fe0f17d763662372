"""What `/v1/completions` and `/v1/chat/completions` have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import InvalidRequest, NotFound
from runtime.http.info import ServerInfo
from runtime.http.schema.choices import check_num_choices
from runtime.http.schema.decoding import UNREAD, Label, Priority, Unread
from runtime.http.schema.grammar import Found, grammar_of
from runtime.http.schema.response_format import ResponseFormat, response_grammar
from runtime.http.schema.sampling import (
    CustomParams,
    SamplingFields,
    check_logit_processor,
    check_options,
    custom_params_of,
    sampling_params_of,
    text_options_of,
)
from runtime.params import SamplingParams, TextOptions

NOT_YET: dict[str, tuple[Any, ...]] = {
    "stop_regex": ("", []),
    "lora_path": (),
    "session_params": ({},),
    "session_id": (),
    "cache_salt": ("",),
    "extra_key": ("",),
    "return_hidden_states": (False,),
    "return_token_ids": (False,),
    "return_meta_info": (False,),
}
"""Fields of features that are not there, with the values (besides null) that do not ask for them."""


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class OpenAiRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """Null means default everywhere. The last block of fields is accepted and has no effect."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Priority | None = None
    rid: Label | None = None
    response_format: ResponseFormat = UNREAD
    custom_logit_processor: str | None = None
    custom_params: CustomParams = UNREAD

    stop_regex: Unread = UNREAD
    lora_path: Unread = UNREAD
    session_params: Unread = UNREAD
    session_id: Unread = UNREAD
    cache_salt: Unread = UNREAD
    extra_key: Unread = UNREAD
    return_hidden_states: Unread = UNREAD
    return_token_ids: Unread = UNREAD
    return_meta_info: Unread = UNREAD

    user: Unread = UNREAD
    metadata: Unread = UNREAD
    store: Unread = UNREAD
    service_tier: Unread = UNREAD
    safety_identifier: Unread = UNREAD
    prompt_cache_key: Unread = UNREAD
    prompt_cache_retention: Unread = UNREAD
    log_metrics: Unread = UNREAD


def check_model(model: str | None, info: ServerInfo) -> None:
    """Raise `NotFound` unless this server serves `model`."""
    if not info.is_served(model):
        message = f"the model {str(model)[:200]!r} is not served here; use {info.served_model_name!r}"
        raise NotFound(message, param="model", code="model_not_found")


def check_stream_options(request: OpenAiRequest) -> None:
    """Raise `InvalidRequest` if there are any for a reply that is not a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options is only allowed with stream", param="stream_options")


def constraint_of(request: OpenAiRequest) -> Found | None:
    """The one constraint on the output, and the name of its field. Raises `InvalidRequest`."""
    others = response_grammar(request.response_format)
    grammar = grammar_of(request, others=others)
    if grammar is None:
        return None
    return others[0] if others else (grammar.kind, grammar)


def options_of(
    request: OpenAiRequest, max_tokens: int | None, max_tokens_param: str, info: ServerInfo, *, min_max_tokens: int = 1
) -> tuple[SamplingParams, TextOptions, int]:
    """Sampling parameters, text options and the number of choices, all checked. Raises `InvalidRequest`."""
    n = check_num_choices(request.n)
    if max_tokens is not None and max_tokens < min_max_tokens:
        raise InvalidRequest(f"{max_tokens_param} must be at least {min_max_tokens}", param=max_tokens_param)
    params = sampling_params_of(
        request,
        max_new_tokens=max_tokens,
        min_new_tokens=request.min_tokens,
        seed=request.seed,
        logit_processor=check_logit_processor(request.custom_logit_processor, info, "custom_logit_processor"),
        custom_params=custom_params_of(request.custom_params, "custom_params"),
    )
    text = text_options_of(request)
    names = {"max_new_tokens": max_tokens_param, "min_new_tokens": "min_tokens"}
    check_options(params, text, info, names=names)
    return params, text, n
