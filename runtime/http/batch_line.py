"""A line of a batch at the door: the same reading, checks and formats as its endpoint's, without HTTP around them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from runtime.batch_port import LineReply
from runtime.errors import NotFound, RequestError, Unsupported
from runtime.http.failure import envelope
from runtime.http.openai_answer import whole_chat, whole_completion
from runtime.http.schema.chat import ChatCompletionRequest
from runtime.http.schema.completion import CompletionRequest
from runtime.http.schema.decoding import decode
from runtime.http.schema.openai import OpenAiRequest
from runtime.http.service import Service

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ENDPOINTS = (CHAT, COMPLETION)

_R = TypeVar("_R", bound=OpenAiRequest)

PRIORITY = -1
"""Of a line that says none: below that of other requests, for policies that look at it."""


async def run_line(service: Service, endpoint: str, body: bytes) -> LineReply:
    """Run the body of a line at one of `ENDPOINTS`; what a client would get as an error is a reply too."""
    request_id = service.new_request_id()
    try:
        reply = await _answer(service, endpoint, body, request_id)
    except RequestError as error:
        return LineReply(error.failure.status, request_id, envelope(error.failure))
    return LineReply(200, request_id, orjson.dumps(reply))


async def _answer(service: Service, endpoint: str, body: bytes, request_id: str) -> dict[str, Any]:
    caller = service.named_caller(request_id)
    if endpoint == CHAT:
        return await whole_chat(service, _background(decode(body, ChatCompletionRequest)), caller)
    if endpoint == COMPLETION:
        return await whole_completion(service, _background(decode(body, CompletionRequest)), caller)
    raise NotFound("there is no such endpoint for batches")


def _background(body: _R) -> _R:
    if body.stream:
        raise Unsupported("a request of a batch can not be a stream", param="stream")
    return body if body.priority is not None else msgspec.structs.replace(body, priority=PRIORITY)
