"""Sampling options, which all endpoints name alike."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.info import ServerInfo
from runtime.http.schema.prompts import check_token_ids
from runtime.params import SamplingParams, TextOptions


class SamplingFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the bodies that have them. Null means default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None


def sampling_params_of(
    fields: SamplingFields, *, max_new_tokens: int | None, min_new_tokens: int | None, seed: int | None
) -> SamplingParams:
    """Not checked yet."""
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
        logit_bias=fields.logit_bias or {},
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        ignore_eos=bool(fields.ignore_eos),
        seed=seed or 0,
    )


def text_options_of(fields: SamplingFields) -> TextOptions:
    """Not checked yet."""
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    return TextOptions(
        stop=stop,
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


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
