"""`/v1/completions`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.openai_answer import answer
from runtime.http.openai_format import CompletionFormat
from runtime.http.schema.completion import CompletionRequest, generations_of
from runtime.http.service import SERVICE


async def completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, CompletionRequest)
    generations = generations_of(body, request.app[SERVICE].caller(request))
    return await answer(request, body, generations, CompletionFormat)


ROUTES = (web.post("/v1/completions", completions),)
