"""`/v1/chat/completions`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.openai_answer import answer
from runtime.http.openai_format import ChatFormat
from runtime.http.schema.chat import ChatCompletionRequest, generations_of
from runtime.http.service import SERVICE


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, ChatCompletionRequest)
    generations = generations_of(body, request.app[SERVICE].caller(request))
    return await answer(request, body, generations, ChatFormat)


ROUTES = (web.post("/v1/chat/completions", chat_completions),)
