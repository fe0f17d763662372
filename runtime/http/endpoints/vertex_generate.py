"""`/vertex_generate`: `/generate` in the form that Google's Vertex AI sends."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.body import read_body
from runtime.http.document import GENERATION, Document
from runtime.http.native_format import NativeFormat
from runtime.http.responses import json_response
from runtime.http.schema.decoding import UNREAD, decode
from runtime.http.schema.generate import GenerateRequest, Samplings, generations_of
from runtime.http.schema.lists import MAX_SEQUENCES
from runtime.http.schema.native_replies import Predictions
from runtime.http.service import SERVICE


class VertexInstance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text: str | None = None
    input_ids: list[int] | None = None


class VertexRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    instances: list[VertexInstance]
    parameters: Samplings = UNREAD


async def vertex_generate(request: web.Request) -> web.Response:
    body = await read_body(request, VertexRequest)
    service = request.app[SERVICE]
    # Not orjson, which fails at integers of more than 64 bits: what is wrong with them is said further on.
    generate = decode(msgspec.json.encode(_prompts(body.instances)), GenerateRequest)
    generate.sampling_params = body.parameters
    batch = generations_of(generate, service.caller(request))
    with service.open(batch.generations) as bundle:
        return json_response({"predictions": NativeFormat(batch, service.clock).whole(await bundle.whole())})


def _prompts(instances: list[VertexInstance]) -> dict[str, Any]:
    """All instances give text, or all give ids."""
    if not 1 <= len(instances) <= MAX_SEQUENCES:
        raise InvalidRequest(f"there must be 1 to {MAX_SEQUENCES} instances", param="instances")
    for name in ("text", "input_ids"):
        values = [instance.text if name == "text" else instance.input_ids for instance in instances]
        if None not in values:
            return {name: values}
    raise InvalidRequest("each instance needs text, or each needs input_ids", param="instances")


DOCUMENTS = {vertex_generate: Document(body=VertexRequest, reply=Predictions, errors=GENERATION)}
ROUTES = (web.post("/vertex_generate", vertex_generate),)
