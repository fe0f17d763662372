"""Anthropic's `/v1/messages`, and `/v1/messages/count_tokens`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.anthropic_failure import anthropic_event
from runtime.http.blame import blaming
from runtime.http.body import read_body
from runtime.http.document import GENERATION, Document
from runtime.http.messages_format import PING, MessageHead, MessagesFormat
from runtime.http.parsed_output import ParsedOutput
from runtime.http.responses import json_response
from runtime.http.schema.messages import (
    CountTokensRequest,
    MessageSequence,
    MessagesRequest,
    allows_parallel_calls,
    prompt_of,
    sequence_of,
)
from runtime.http.service import SERVICE, Service
from runtime.http.stream import Framing, stream
from runtime.messages import CountTokens

FRAMING = Framing(ping=PING, done=b"", error=anthropic_event)


async def create_message(request: web.Request) -> web.StreamResponse:
    """Generate a message."""
    service = request.app[SERVICE]
    body = await read_body(request, MessagesRequest)
    sequence = sequence_of(body, service.caller(request))
    reply = _format(service, body, sequence)
    with (
        blaming("tools" if body.output_config is None else "output_config"),
        service.open([sequence.generation], is_streaming=bool(body.stream), joins_rows=False) as bundle,
    ):
        if body.stream:
            return await stream(request, bundle, reply, FRAMING)
        (rows,) = await bundle.all_rows()
        return web.Response(body=reply.whole(rows), content_type="application/json")


async def count_tokens(request: web.Request) -> web.Response:
    """How many tokens the prompt of a message has."""
    service = request.app[SERVICE]
    body = await read_body(request, CountTokensRequest)
    prompt, _ = prompt_of(body, service.info)
    return json_response({"input_tokens": await service.command(service.tokenizer, CountTokens(prompt=prompt))})


def _format(service: Service, body: MessagesRequest, sequence: MessageSequence) -> MessagesFormat:
    head = MessageHead(id=f"msg_{service.new_hex(12)}", model=body.model, reports_cache=service.config.http.enable_cache_report)
    parser = None if sequence.plan.make_parser is None else sequence.plan.make_parser()
    max_calls = None if allows_parallel_calls(body) else 1
    return MessagesFormat(head, ParsedOutput(parser, lambda: f"toolu_{service.new_hex(12)}", max_calls))


DOCUMENTS = {
    create_message: Document(body=MessagesRequest, reply={"type": "object"}, streams=True, errors=GENERATION),
    count_tokens: Document(body=CountTokensRequest, reply={"type": "object"}, errors=(404,)),
}
ROUTES = (web.post("/v1/messages", create_message), web.post("/v1/messages/count_tokens", count_tokens))
