"""`/v1/responses`: generate a response, and get, delete or cancel a stored one."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import Conflict, InvalidRequest, NotFound, Unsupported
from runtime.http.blame import blaming
from runtime.http.body import read_body
from runtime.http.document import COMMAND, GENERATION, Document
from runtime.http.openai_answer import new_output
from runtime.http.response_store import StoredResponse
from runtime.http.responses_format import ResponseHead, ResponsesFormat
from runtime.http.schema.responses import ResponseSequence, ResponsesRequest, sequence_of
from runtime.http.service import SERVICE, Service
from runtime.http.stream import Framing, stream


class Recording:
    """Keeps the store up to date with a response that is being made. `is_on` False keeps nothing."""

    def __init__(self, service: Service, sequence: ResponseSequence, reply: ResponsesFormat, *, is_on: bool) -> None:
        self._store = service.response_store
        self._sequence = sequence
        self._reply = reply
        self._is_on = is_on

    def __enter__(self) -> None:
        if self._is_on:
            self._store.put(StoredResponse(response=self._reply.response(), items=self._sequence.items))

    def __exit__(self, *_: object) -> None:
        if not self._is_on:
            return
        if not self._reply.is_finished:  # refused, failed or left
            self._store.discard(self._reply.response_id)
            return
        turns = (*self._sequence.turns, self._reply.turn())
        self._store.put(StoredResponse(response=self._reply.response(), items=self._sequence.items, turns=turns))


async def create_response(request: web.Request) -> web.StreamResponse:
    """Generate a response."""
    service = request.app[SERVICE]
    body = await read_body(request, ResponsesRequest)
    response_id = f"resp_{service.new_hex(24)}"
    sequence = sequence_of(body, service.named_caller(response_id), _history(service, body))
    reply = _format(service, body, sequence, response_id)
    is_streaming = bool(body.stream)
    with (
        blaming(sequence.grammar_param),
        service.open([sequence.generation], is_streaming=is_streaming, joins_rows=False) as bundle,
        Recording(service, sequence, reply, is_on=body.store is not False),
    ):
        if is_streaming:
            return await stream(request, bundle, reply, Framing(done=b"", error=reply.of_failure))
        (rows,) = await bundle.all_rows()
        return _json(reply.whole(rows))


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


def _history(service: Service, body: ResponsesRequest) -> tuple[dict[str, Any], ...]:
    """The conversation that the request goes on with."""
    if body.previous_response_id is None:
        return ()
    param = "previous_response_id"
    try:
        stored = service.response_store.get(body.previous_response_id, param)
    except NotFound as error:  # OpenAI's status for it, since the path exists
        raise InvalidRequest(error.failure.message, param=param, code="previous_response_not_found") from None
    if not stored.turns:
        raise InvalidRequest("the previous response has not ended yet", param=param)
    return stored.turns


def _format(service: Service, body: ResponsesRequest, sequence: ResponseSequence, response_id: str) -> ResponsesFormat:
    head = ResponseHead(
        id=response_id,
        created=int(service.clock.wall()),
        model=body.model or service.info.served_model_name,
        echo=sequence.echo,
        reports_cache=service.config.http.enable_cache_report,
    )
    output = new_output(service, sequence.plan, parallel_tool_calls=body.parallel_tool_calls)
    return ResponsesFormat(head, output, lambda prefix: f"{prefix}_{service.new_hex(12)}")


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
