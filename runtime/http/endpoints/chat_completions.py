"""`/v1/chat/completions`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.document import GENERATION, Document
from runtime.http.openai_answer import answer_chat
from runtime.http.schema.chat import ChatCompletionRequest


async def chat_completions(request: web.Request) -> web.StreamResponse:
    return await answer_chat(request, await read_body(request, ChatCompletionRequest))


DOCUMENTS = {chat_completions: Document(body=ChatCompletionRequest, reply={"type": "object"}, streams=True, errors=GENERATION)}
ROUTES = (web.post("/v1/chat/completions", chat_completions),)
