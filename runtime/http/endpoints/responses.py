"""`/v1/responses`: generate a response, and get, delete or cancel a stored one."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import Conflict, InvalidRequest, Unsupported
from runtime.http.body import read_body
from runtime.http.document import COMMAND, GENERATION, Document
from runtime.http.response_store import StoredResponse
from runtime.http.responses_answer import stream_response, whole_response
from runtime.http.schema.responses import ResponsesRequest
from runtime.http.service import SERVICE


async def create_response(request: web.Request) -> web.StreamResponse:
    """Generate a response."""
    service = request.app[SERVICE]
    body = await read_body(request, ResponsesRequest)
    if body.stream:
        return await stream_response(request, service, body)
    return _json(await whole_response(service, body))


async def get_response(request: web.Request) -> web.Response:
    """A stored response, as it is now."""
    if request.query.get("stream") == "true":
        raise Unsupported("stored responses are not streamed again", param="stream")
    return _json(_stored(request).response)


async def delete_response(request: web.Request) -> web.Response:
    """Forget a stored response."""
    stored = _stored(request)
    if stored.response["status"] == "in_progress":
        raise Conflict("the response is still in progress: cancel it first", param="response_id")
    response_id = stored.response["id"]
    request.app[SERVICE].response_store.discard(response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


async def cancel_response(request: web.Request) -> web.Response:
    """Cancel a response. Only one that is being streamed can be known before it has ended."""
    response = _stored(request).response
    if response["status"] != "in_progress":
        raise Conflict(f"the response can not be cancelled any more: it is {response['status']}", param="response_id")
    request.app[SERVICE].replies.cancel_labelled(response["id"])
    return _json({**response, "status": "cancelled"})


async def list_input_items(request: web.Request) -> web.Response:
    """The input of a stored response, all at once, the last item first, as OpenAI orders them."""
    stored = _stored(request)
    own_id = stored.response["id"]
    items = [{"id": f"{own_id}_{position}", "type": "message", **item} for position, item in enumerate(stored.items)]
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", param="order")
    if order == "desc":
        items.reverse()
    return _json({"object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"], "has_more": False})


def _stored(request: web.Request) -> StoredResponse:
    return request.app[SERVICE].response_store.get(request.match_info["response_id"])


def _json(value: Any) -> web.Response:
    """Clients' own integers may have more than 64 bits, which orjson does not write."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


OBJECT = {"type": "object"}
ORDER = {"order": {"enum": ["asc", "desc"]}}

DOCUMENTS = {
    create_response: Document(body=ResponsesRequest, reply=OBJECT, streams=True, errors=GENERATION),
    get_response: Document(reply=OBJECT, errors=(404,)),
    delete_response: Document(reply=OBJECT, errors=COMMAND),
    cancel_response: Document(reply=OBJECT, errors=COMMAND),
    list_input_items: Document(reply=OBJECT, errors=(404,), query=ORDER),
}
ROUTES = (
    web.post("/v1/responses", create_response),
    web.get("/v1/responses/{response_id}", get_response),
    web.delete("/v1/responses/{response_id}", delete_response),
    web.post("/v1/responses/{response_id}/cancel", cancel_response),
    web.get("/v1/responses/{response_id}/input_items", list_input_items),
)
