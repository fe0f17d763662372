"""What `/generate` lets a client say about log probabilities, with the meaning that SGLang 0.4.3 gives to it.

`logprob_start_len` k, for a prompt of n tokens: 0 gives all n, the first of them without a value; k > 0 gives those of the
tokens from k + 1 on; -1 gives none, but for a prompt of one token, whose one entry has no value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.info import ServerInfo
from runtime.http.schema.decoding import UNREAD, Unread, decode_field, is_null
from runtime.http.schema.lists import MAX_SEQUENCES, list_of, values_of
from runtime.http.schema.logprobs import MAX_LOGPROB_TOKEN_IDS, MAX_TOP_LOGPROBS, check_logprob_token_ids, check_num_top
from runtime.params import LogprobOptions, Prompt, TextPrompt, TokenPrompt

MAX_NUMBER_BYTES = 32
MAX_TOKEN_IDS_BYTES = 16 * 2**10
LONE_TOKEN_CHARS = 16
"""A text of at most so many characters may be one token, which only the tokenizer knows."""

_NESTED = re.compile(rb"\[\s*[\[n]")
_ID = {"type": "integer", "minimum": 0}
_IDS = {"type": ["array", "null"], "items": _ID, "maxItems": MAX_LOGPROB_TOKEN_IDS}

PerItemFlag = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["boolean", "array", "null"],
            "items": {"type": ["boolean", "null"]},
            "maxItems": MAX_SEQUENCES,
        }
    ),
]
PerItemStart = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["integer", "array", "null"],
            "minimum": -1,
            "items": {"type": ["integer", "null"], "minimum": -1},
            "maxItems": MAX_SEQUENCES,
        }
    ),
]
PerItemNumTop = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["integer", "array", "null"],
            "minimum": 0,
            "maximum": MAX_TOP_LOGPROBS,
            "items": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_TOP_LOGPROBS},
            "maxItems": MAX_SEQUENCES,
        }
    ),
]
PerItemTokenIds = Annotated[
    Unread, msgspec.Meta(extra_json_schema={"anyOf": [_IDS, {"type": "array", "items": _IDS, "maxItems": MAX_SEQUENCES}]})
]


class LogprobFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    return_logprob: PerItemFlag = UNREAD
    logprob_start_len: PerItemStart = UNREAD
    top_logprobs_num: PerItemNumTop = UNREAD
    token_ids_logprob: PerItemTokenIds = UNREAD
    return_text_in_logprobs: bool | None = None


class LogprobWish(msgspec.Struct, frozen=True):
    """What one sequence is asked for, and whether the prompt's part is shown only if the prompt is one token."""

    options: LogprobOptions | None = None
    lone_token_only: bool = False


def logprob_wishes(fields: LogprobFields, prompts: Sequence[Prompt], info: ServerInfo) -> list[LogprobWish]:
    """One for each prompt. Raises `InvalidRequest`."""
    num_prompts = len(prompts)
    returns = values_of(fields.return_logprob, bool, num_prompts, "return_logprob", MAX_NUMBER_BYTES)
    starts = values_of(fields.logprob_start_len, int, num_prompts, "logprob_start_len", MAX_NUMBER_BYTES)
    nums_top = values_of(fields.top_logprobs_num, int, num_prompts, "top_logprobs_num", MAX_NUMBER_BYTES)
    token_ids = _token_ids(fields.token_ids_logprob, num_prompts)
    _check(starts, nums_top, token_ids, info)
    if not any(returns):
        _check_unasked(nums_top, token_ids)
    items = zip(prompts, returns, starts, nums_top, token_ids, strict=True)
    return [
        _wish(prompt, -1 if start is None else start, num_top or 0, ids or ()) if is_asked else LogprobWish()
        for prompt, is_asked, start, num_top, ids in items
    ]


def _token_ids(field: PerItemTokenIds, num_prompts: int) -> list[tuple[int, ...] | None]:
    """A list of ids counts for every prompt; a list of lists, or of nulls, has one for each."""
    name = "token_ids_logprob"
    if is_null(field):
        return [None] * num_prompts
    if _NESTED.match(field):
        return list_of(field, tuple[int, ...], num_prompts, name, MAX_TOKEN_IDS_BYTES)
    return [decode_field(field, tuple[int, ...], name, MAX_TOKEN_IDS_BYTES)] * num_prompts


def _check(
    starts: Sequence[int | None],
    nums_top: Sequence[int | None],
    token_ids: Sequence[tuple[int, ...] | None],
    info: ServerInfo,
) -> None:
    for start in starts:
        if start is not None and not -1 <= start < 2**31:
            raise InvalidRequest("logprob_start_len must be at least -1", param="logprob_start_len")
    for num_top in nums_top:
        check_num_top(num_top or 0, "top_logprobs_num")
    for ids in token_ids:
        check_logprob_token_ids(ids or (), "token_ids_logprob", info)


def _check_unasked(nums_top: Sequence[int | None], token_ids: Sequence[tuple[int, ...] | None]) -> None:
    for param, values in (("top_logprobs_num", nums_top), ("token_ids_logprob", token_ids)):
        if any(values):
            raise InvalidRequest(f"{param} needs return_logprob", param=param)


def _wish(prompt: Prompt, start: int, num_top: int, token_ids: tuple[int, ...]) -> LogprobWish:
    is_default = start == -1
    prompt_start = start + 1 if start > 0 else 0
    needs_prompt = not is_default or _may_be_one_token(prompt)
    options = LogprobOptions(num_top=num_top, token_ids=token_ids, prompt_start=prompt_start if needs_prompt else None)
    return LogprobWish(options, lone_token_only=is_default)


def _may_be_one_token(prompt: Prompt) -> bool:
    if isinstance(prompt, TokenPrompt):
        return len(prompt.token_ids) == 1
    return isinstance(prompt, TextPrompt) and len(prompt.text) <= LONE_TOKEN_CHARS
