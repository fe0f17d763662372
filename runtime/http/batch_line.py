"""A line of a batch at the door: the same reading, checks and formats as its endpoint's, without HTTP around them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runtime.batch_port import LineReply
from runtime.errors import NotFound, RequestError, Unsupported
from runtime.http.failure import envelope
from runtime.http.openai_answer import whole_chat, whole_completion
from runtime.http.responses_answer import whole_response
from runtime.http.schema.chat import ChatCompletionRequest
from runtime.http.schema.completion import CompletionRequest
from runtime.http.schema.decoding import decode
from runtime.http.schema.responses import ResponsesRequest
from runtime.http.service import Service

CHAT, COMPLETION, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDPOINTS = (CHAT, COMPLETION, RESPONSE)

_R = TypeVar("_R", ChatCompletionRequest, CompletionRequest, ResponsesRequest)

PRIORITY = -1
"""Of a line that says none: below that of other requests, for policies that look at it."""


async def run_line(service: Service, endpoint: str, body: bytes) -> LineReply:
    """Run the body of a line at one of `ENDPOINTS`; what a client would get as an error is a reply too."""
    request_id = service.new_request_id()
    try:
        reply = await _answer(service, endpoint, body, request_id)
    except RequestError as error:
        return LineReply(error.failure.status, request_id, envelope(error.failure))
    return LineReply(200, request_id, msgspec.json.encode(reply))  # clients' own integers may have more than 64 bits


async def _answer(service: Service, endpoint: str, body: bytes, request_id: str) -> dict[str, Any]:
    caller = service.named_caller(request_id)
    if endpoint == CHAT:
        return await whole_chat(service, _background(decode(body, ChatCompletionRequest)), caller)
    if endpoint == COMPLETION:
        return await whole_completion(service, _background(decode(body, CompletionRequest)), caller)
    if endpoint == RESPONSE:
        # Thousands of lines would push out of the store what conversations go on with.
        return await whole_response(service, msgspec.structs.replace(_background(decode(body, ResponsesRequest)), store=False))
    raise NotFound("there is no such endpoint for batches")


def _background(body: _R) -> _R:
    if body.stream:
        raise Unsupported("a request of a batch can not be a stream", param="stream")
    return body if body.priority is not None else msgspec.structs.replace(body, priority=PRIORITY)
