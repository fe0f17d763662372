"""`/v1/chat/completions`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.openai_answer import answer_chat
from runtime.http.schema.chat import ChatCompletionRequest


async def chat_completions(request: web.Request) -> web.StreamResponse:
    return await answer_chat(request, await read_body(request, ChatCompletionRequest))


ROUTES = (web.post("/v1/chat/completions", chat_completions),)
