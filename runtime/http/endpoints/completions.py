"""`/v1/completions`."""

from __future__ import annotations

from aiohttp import web

from runtime.http.body import read_body
from runtime.http.document import GENERATION, Document
from runtime.http.openai_answer import answer_completion
from runtime.http.schema.completion import CompletionRequest


async def completions(request: web.Request) -> web.StreamResponse:
    return await answer_completion(request, await read_body(request, CompletionRequest))


DOCUMENTS = {completions: Document(body=CompletionRequest, reply={"type": "object"}, streams=True, errors=GENERATION)}
ROUTES = (web.post("/v1/completions", completions),)
