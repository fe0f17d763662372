"""`/tokenize` and `/detokenize`: the served model's tokenizer."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.schema.decoding import UNREAD, Unread, decode_field, is_null
from runtime.http.schema.lists import MAX_SEQUENCES, is_list, items_of
from runtime.http.schema.prompts import check_token_ids
from runtime.http.service import SERVICE, Service
from runtime.messages import DecodeTokens, EncodeTexts

MAX_CHARS = 2**20
MAX_TOKENS = 2**18

Texts = Annotated[
    Unread,
    msgspec.Meta(extra_json_schema={"type": ["string", "array"], "items": {"type": "string"}, "maxItems": MAX_SEQUENCES}),
]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
TokenLists = Annotated[
    Unread, msgspec.Meta(extra_json_schema={"anyOf": [_IDS, {"type": "array", "items": _IDS, "maxItems": MAX_SEQUENCES}]})
]
_NESTED = re.compile(rb"\[\s*\[")


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    prompt: Texts
    add_special_tokens: bool = True
    model: Unread = UNREAD


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: TokenLists
    skip_special_tokens: bool = True
    model: Unread = UNREAD


class TokenizeReply(msgspec.Struct, kw_only=True):
    tokens: list[int | list[int]]
    count: int | list[int]
    max_model_len: int


class DetokenizeReply(msgspec.Struct, kw_only=True):
    text: str | list[str]


async def tokenize(request: web.Request) -> web.Response:
    """The token ids of a text, or of each in a list."""
    body = await read_body(request, TokenizeRequest)
    service = _with_tokenizer(request)
    texts = _texts(body.prompt)
    found = await service.command(service.tokenizer, EncodeTexts(texts=texts, add_special_tokens=body.add_special_tokens))
    tokens: Any = found if is_list(body.prompt) else found[0]
    count: Any = list(map(len, found)) if is_list(body.prompt) else len(found[0])
    return json_response({"tokens": tokens, "count": count, "max_model_len": service.info.context_length})


async def detokenize(request: web.Request) -> web.Response:
    """The text of token ids, or of each list of them."""
    body = await read_body(request, DetokenizeRequest)
    service = _with_tokenizer(request)
    is_batch = _NESTED.match(body.tokens) is not None
    lists = _token_lists(body.tokens, is_batch)
    for token_ids in lists:
        check_token_ids(token_ids, "tokens", service.info)
    message = DecodeTokens(token_ids=lists, skip_special_tokens=body.skip_special_tokens)
    texts = await service.command(service.tokenizer, message)
    return json_response({"text": texts if is_batch else texts[0]})


def _with_tokenizer(request: web.Request) -> Service:
    service = request.app[SERVICE]
    if service.info.skips_tokenizer:
        raise Unsupported("this server has no tokenizer: it was started with --skip-tokenizer-init")
    return service


def _texts(field: Texts) -> tuple[str, ...]:
    items = items_of(field, "prompt") if is_list(field) else [field]
    texts = tuple(decode_field(item, str, "prompt", memoryview(item).nbytes) for item in items)
    if sum(map(len, texts)) > MAX_CHARS:
        raise InvalidRequest(f"prompt is longer than {MAX_CHARS} characters", param="prompt")
    return texts


def _token_lists(field: TokenLists, is_batch: bool) -> tuple[tuple[int, ...], ...]:
    if is_null(field) or not is_list(field):
        raise InvalidRequest("tokens must be a list of token ids, or of such lists", param="tokens")
    if bytes(field).count(b",") >= MAX_TOKENS:
        raise InvalidRequest(f"there are more than {MAX_TOKENS} tokens", param="tokens")
    items = items_of(field, "tokens") if is_batch else [field]
    return tuple(decode_field(item, tuple[int, ...], "tokens", memoryview(item).nbytes) for item in items)


DOCUMENTS = {
    tokenize: Document(body=TokenizeRequest, reply=TokenizeReply),
    detokenize: Document(body=DetokenizeRequest, reply=DetokenizeReply),
}
ROUTES = (
    web.post("/tokenize", tokenize),
    web.post("/v1/tokenize", tokenize),
    web.post("/detokenize", detokenize),
    web.post("/v1/detokenize", detokenize),
)
