"""Prompts as clients write them: a text, token ids, or a list of either."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

import msgspec

from runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from runtime.http.info import ServerInfo
from runtime.http.schema.decoding import Unread, decode_field
from runtime.http.schema.lists import MAX_SEQUENCES, is_list, items_of
from runtime.params import Prompt, TextPrompt, TokenPrompt

MAX_TOKEN_IDS = 2**20
"""In all prompts of one HTTP request."""

RawPrompt = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_SEQUENCES},
                {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                    "minItems": 1,
                    "maxItems": MAX_SEQUENCES,
                },
            ]
        }
    ),
]
"""Not read before it is known to be small enough."""

_FIRST_ITEM = re.compile(rb"\[\s*(.)", re.DOTALL)


def parse_prompts(raw: RawPrompt, param: str, info: ServerInfo) -> list[Prompt]:
    """Every prompt in `raw`, checked. Raises `InvalidRequest` that names the offending item."""
    if not is_list(raw) or is_token_ids(raw):
        return [_parse_item(raw, param, info)]
    items = items_of(raw, param)
    if not items:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    _check_num_token_ids(raw, items, param)
    return [_parse_item(item, f"{param}[{position}]", info) for position, item in enumerate(items)]


def is_token_ids(raw: Unread) -> bool:
    """Whether a list begins as one of ids does, rather than as one of whole prompts."""
    first = _FIRST_ITEM.match(raw)
    return first is not None and first[1] not in b'"[]'


def check_num_sequences(num_sequences: int, param: str) -> None:
    """Raise `InvalidRequest` if one request asks for more sequences than are allowed."""
    if num_sequences > MAX_SEQUENCES:
        raise InvalidRequest(f"at most {MAX_SEQUENCES} sequences (prompts x n) fit in a request", param=param)


def check_token_ids(token_ids: Collection[int], param: str, info: ServerInfo) -> None:
    """Raise `InvalidRequest` unless the logits have a column for each of `token_ids`."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < info.vocab_size:
        raise InvalidRequest(f"token ids in {param} must be in [0, {info.vocab_size - 1}]", param=param)


def _parse_item(item: Unread, param: str, info: ServerInfo) -> Prompt:
    return _token_prompt(item, param, info) if is_list(item) else _text_prompt(item, param, info)


def _text_prompt(raw: Unread, param: str, info: ServerInfo) -> TextPrompt:
    if bytes(memoryview(raw)[:1]) != b'"':
        raise InvalidRequest(f"{param} must be a text, token ids, or a list of either", param=param)
    text = decode_field(raw, str, param, memoryview(raw).nbytes)
    if not text:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if info.skips_tokenizer:
        raise Unsupported("this server has no tokenizer: send token ids", param=param)
    return TextPrompt(text, param)


def _token_prompt(raw: Unread, param: str, info: ServerInfo) -> TokenPrompt:
    """The length is checked first, so that the cost of the other checks is bounded."""
    num_tokens = bytes(raw).count(b",") + 1
    if num_tokens >= info.context_length:
        message = f"{param} has {num_tokens} tokens, but the model's context is {info.context_length} tokens"
        raise ContextLengthExceeded(message, param=param)
    token_ids = decode_field(raw, tuple[int, ...], param, memoryview(raw).nbytes)
    if not token_ids:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    check_token_ids(token_ids, param, info)
    return TokenPrompt(token_ids, param)


def _check_num_token_ids(raw: Unread, items: list[Unread], param: str) -> None:
    if is_list(items[0]) and bytes(raw).count(b",") >= MAX_TOKEN_IDS:
        raise InvalidRequest(f"{param} has more than {MAX_TOKEN_IDS} token ids, which is the most for one request", param=param)
