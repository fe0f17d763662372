"""What `/v1/completions` and `/v1/chat/completions` have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.errors import InvalidRequest, NotFound
from runtime.http.info import ServerInfo
from runtime.http.schema.choices import check_num_choices
from runtime.http.schema.decoding import UNREAD, Label, Priority, Unread
from runtime.http.schema.sampling import SamplingFields, check_options, sampling_params_of, text_options_of
from runtime.params import SamplingParams, TextOptions

NOT_YET: dict[str, tuple[Any, ...]] = {
    "regex": ("",),
    "ebnf": ("",),
    "json_schema": ("",),
    "structural_tag": ("",),
    "response_format": ({"type": "text"},),
    "stop_regex": ("", []),
    "lora_path": (),
    "session_params": ({},),
    "session_id": (),
    "custom_logit_processor": (),
    "custom_params": ({},),
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

    regex: Unread = UNREAD
    ebnf: Unread = UNREAD
    json_schema: Unread = UNREAD
    structural_tag: Unread = UNREAD
    response_format: Unread = UNREAD
    stop_regex: Unread = UNREAD
    lora_path: Unread = UNREAD
    session_params: Unread = UNREAD
    session_id: Unread = UNREAD
    custom_logit_processor: Unread = UNREAD
    custom_params: Unread = UNREAD
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


def options_of(
    request: OpenAiRequest, max_tokens: int | None, max_tokens_param: str, info: ServerInfo
) -> tuple[SamplingParams, TextOptions, int]:
    """Sampling parameters, text options and the number of choices, all checked. Raises `InvalidRequest`."""
    n = check_num_choices(request.n)
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequest(f"{max_tokens_param} must be at least 1", param=max_tokens_param)
    params = sampling_params_of(request, max_new_tokens=max_tokens, min_new_tokens=request.min_tokens, seed=request.seed)
    text = text_options_of(request)
    names = {"max_new_tokens": max_tokens_param, "min_new_tokens": "min_tokens"}
    check_options(params, text, info, names=names)
    return params, text, n
