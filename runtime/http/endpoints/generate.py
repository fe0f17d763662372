"""`/generate`, SGLang's native endpoint."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.document import GENERATION, Document
from runtime.http.native_format import NativeFormat
from runtime.http.responses import json_bytes
from runtime.http.schema.generate import GenerateRequest, NativeGenerations, SessionParams, generations_of, session_params_of
from runtime.http.schema.native_replies import GenerateReply
from runtime.http.service import SERVICE
from runtime.http.session_turn import TurnEvents, generations_in_session
from runtime.http.stream import stream


async def generate(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, GenerateRequest)
    session = session_params_of(body)
    if session is not None:
        return await _in_session(request, body, session)
    batch = generations_of(body, request.app[SERVICE].caller(request))
    return await _answer(request, batch, NativeFormat(batch, request.app[SERVICE].clock), is_streaming=bool(body.stream))


async def _in_session(request: web.Request, body: GenerateRequest, session: SessionParams) -> web.StreamResponse:
    service = request.app[SERVICE]
    batch, turn = await generations_in_session(service, body, session, service.caller(request))
    reply = NativeFormat(batch, service.clock)
    with turn:
        if body.stream:
            with service.open(batch.generations, is_streaming=True) as bundle:
                return await stream(request, bundle, TurnEvents(reply, turn))
        response = await _answer(request, batch, reply, is_streaming=False)
        turn.finish(reply)
        return response


async def _answer(
    request: web.Request, batch: NativeGenerations, reply: NativeFormat, *, is_streaming: bool
) -> web.StreamResponse:
    with request.app[SERVICE].open(batch.generations, is_streaming=is_streaming) as bundle:
        if is_streaming:
            return await stream(request, bundle, reply)
        return json_bytes(reply.whole_bytes(await bundle.whole()))


DOCUMENTS = {generate: Document(body=GenerateRequest, reply=GenerateReply, streams=True, errors=GENERATION)}
ROUTES = (web.post("/generate", generate), web.put("/generate", generate))
