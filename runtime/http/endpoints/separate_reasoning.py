"""`/separate_reasoning`: what a model thought, and what it answered."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.service import SERVICE
from runtime.pieces import ReasoningPiece, TextPiece

MAX_CHARS = 2**20


class SeparateReasoning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Without `reasoning_parser` the format of the served model."""

    text: str
    reasoning_parser: str | None = None


class Separated(msgspec.Struct, kw_only=True):
    reasoning_text: str
    text: str


async def separate_reasoning(request: web.Request) -> web.Response:
    """Both parts of a text that a model wrote."""
    body = await read_body(request, SeparateReasoning)
    if len(body.text) > MAX_CHARS:
        raise InvalidRequest(f"text is longer than {MAX_CHARS} characters", param="text")
    pieces = request.app[SERVICE].output_parsing.separate(body.text, body.reasoning_parser or None)
    thought = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece))
    answer = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
    return json_response({"reasoning_text": thought, "text": answer})


DOCUMENTS = {separate_reasoning: Document(body=SeparateReasoning, reply=Separated)}
ROUTES = (web.post("/separate_reasoning", separate_reasoning),)
