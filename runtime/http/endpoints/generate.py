"""`/generate`, SGLang's native endpoint."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.native_format import NativeFormat
from runtime.http.responses import json_bytes
from runtime.http.schema.generate import GenerateRequest, generations_of
from runtime.http.service import SERVICE
from runtime.http.stream import stream


async def generate(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    body = await read_body(request, GenerateRequest)
    batch = generations_of(body, service.caller(request))
    reply = NativeFormat(batch, service.clock)
    with service.open(batch.generations, is_streaming=bool(body.stream)) as bundle:
        if body.stream:
            return await stream(request, bundle, reply)
        return json_bytes(reply.whole_bytes(await bundle.whole()))


ROUTES = (web.post("/generate", generate), web.put("/generate", generate))
