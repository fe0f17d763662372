"""Sampling options, which all endpoints name alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.info import ServerInfo
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode_field, is_null
from runtime.http.schema.grammar import GrammarFields
from runtime.http.schema.lists import is_list
from runtime.http.schema.prompts import check_token_ids
from runtime.params import SamplingParams, TextOptions

MAX_STOP_BYTES = 64 * 2**10
MAX_STOP_TOKEN_IDS_BYTES = 8 * 2**10
MAX_LOGIT_BIAS_BYTES = 64 * 2**10
MAX_CUSTOM_PARAMS_BYTES = 64 * 2**10

# Fields whose size is checked before values are built for them, with what they hold.
Stop = Annotated[
    Unread, msgspec.Meta(extra_json_schema={"type": ["string", "array", "null"], "items": {"type": "string"}, "maxItems": 16})
]
TokenIds = Annotated[
    Unread,
    msgspec.Meta(extra_json_schema={"type": ["array", "null"], "items": {"type": "integer", "minimum": 0}, "maxItems": 256}),
]
LogitBias = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["object", "null"],
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": 1024,
        }
    ),
]
CustomParams = Annotated[Unread, msgspec.Meta(extra_json_schema={"type": ["object", "null"]})]


class SamplingFields(GrammarFields, kw_only=True, forbid_unknown_fields=True):
    """Base of the bodies that have them. Null means default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: LogitBias = UNREAD
    n: int | None = None
    stop: Stop = UNREAD
    stop_token_ids: TokenIds = UNREAD
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None


def sampling_params_of(
    fields: SamplingFields,
    *,
    max_new_tokens: int | None,
    min_new_tokens: int | None,
    seed: int | None,
    prefix: str = "",
    logit_processor: str | None = None,
    custom_params: dict[str, Any] | None = None,
) -> SamplingParams:
    """Ranges are not checked yet. Raises `InvalidRequest`, with `prefix` before the name of the field."""
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or 0,
        temperature=_or(fields.temperature, 1.0),
        top_p=_or(fields.top_p, 1.0),
        top_k=-1 if fields.top_k is None else fields.top_k,
        min_p=_or(fields.min_p, 0.0),
        frequency_penalty=_or(fields.frequency_penalty, 0.0),
        presence_penalty=_or(fields.presence_penalty, 0.0),
        repetition_penalty=_or(fields.repetition_penalty, 1.0),
        logit_bias=_logit_bias(fields.logit_bias, prefix + "logit_bias"),
        stop_token_ids=_stop_token_ids(fields.stop_token_ids, prefix + "stop_token_ids"),
        ignore_eos=bool(fields.ignore_eos),
        seed=seed or 0,
        logit_processor=logit_processor,
        custom_params=custom_params,
    )


def text_options_of(fields: SamplingFields, prefix: str = "") -> TextOptions:
    """Ranges are not checked yet. Raises `InvalidRequest`, with `prefix` before the name of the field."""
    return TextOptions(
        stop=_stop(fields.stop, prefix + "stop"),
        no_stop_trim=bool(fields.no_stop_trim),
        skip_special_tokens=fields.skip_special_tokens is not False,
        spaces_between_special_tokens=fields.spaces_between_special_tokens is not False,
    )


def check_options(
    params: SamplingParams, text: TextOptions, info: ServerInfo, *, names: Mapping[str, str], prefix: str = ""
) -> None:
    """Raise `InvalidRequest` in the words of the client: `names` maps ours to those of the API."""
    try:
        params.check()
        text.check()
        check_token_ids(params.stop_token_ids, "stop_token_ids", info)
        check_token_ids(params.logit_bias, "logit_bias", info)
    except InvalidRequest as error:
        param, message = error.failure.param or "", error.failure.message
        for ours, theirs in names.items():
            message = message.replace(ours, theirs)
        raise InvalidRequest(message, param=prefix + names.get(param, param)) from None


def check_logit_processor(name: str | None, info: ServerInfo, param: str) -> str | None:
    """The name of a class that the operator loaded, or None. Raises `Unsupported` that says what to do."""
    if not name:
        return None
    if name in info.logit_processors:
        return name
    if name.lstrip().startswith("{"):
        raise Unsupported(
            "serialized logit processors are not accepted, since reading them runs code: start the server with "
            "--logit-processor package.module:Class and send the class's name",
            param=param,
        )
    known = ", ".join(info.logit_processors) or "none; start it with --logit-processor package.module:Class"
    raise Unsupported(f"no logit processor {name[:100]!r} is loaded; this server has: {known}", param=param)


def custom_params_of(field: Unread, param: str) -> dict[str, Any] | None:
    """What a client tells its logit processor. Raises `InvalidRequest`."""
    if is_null(field):
        return None
    custom_params = decode_field(field, dict[str, Any], param, MAX_CUSTOM_PARAMS_BYTES)
    check_depth(custom_params, param)
    return custom_params


def _stop(field: Unread, param: str) -> tuple[str, ...]:
    if is_null(field):
        return ()
    if is_list(field):
        return decode_field(field, tuple[str, ...], param, MAX_STOP_BYTES)
    return (decode_field(field, str, param, MAX_STOP_BYTES),)


def _stop_token_ids(field: Unread, param: str) -> tuple[int, ...]:
    return () if is_null(field) else decode_field(field, tuple[int, ...], param, MAX_STOP_TOKEN_IDS_BYTES)


def _logit_bias(field: Unread, param: str) -> dict[int, float]:
    return {} if is_null(field) else decode_field(field, dict[int, float], param, MAX_LOGIT_BIAS_BYTES)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
