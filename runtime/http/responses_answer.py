"""What a response does once its body is read: generate, reply as a stream or whole, and be kept for later turns.

`whole_response` is for requests that come by another way than HTTP, as the lines of a batch do.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from runtime.errors import InvalidRequest, NotFound
from runtime.http.blame import blaming
from runtime.http.openai_answer import new_output
from runtime.http.response_store import StoredResponse
from runtime.http.responses_format import ResponseHead, ResponsesFormat
from runtime.http.schema.responses import ResponseSequence, ResponsesRequest, sequence_of
from runtime.http.service import Service
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


async def stream_response(request: web.Request, service: Service, body: ResponsesRequest) -> web.StreamResponse:
    """Raises `RequestError`."""
    sequence, reply, recording = _begun(service, body)
    with (
        blaming(sequence.grammar_param),
        service.open([sequence.generation], is_streaming=True, joins_rows=False) as bundle,
        recording,
    ):
        return await stream(request, bundle, reply, Framing(done=b"", error=reply.of_failure))


async def whole_response(service: Service, body: ResponsesRequest) -> dict[str, Any]:
    """The reply that is not a stream. Raises `RequestError`."""
    sequence, reply, recording = _begun(service, body)
    with blaming(sequence.grammar_param), service.open([sequence.generation], joins_rows=False) as bundle, recording:
        (rows,) = await bundle.all_rows()
        return reply.whole(rows)


def _begun(service: Service, body: ResponsesRequest) -> tuple[ResponseSequence, ResponsesFormat, Recording]:
    response_id = f"resp_{service.new_hex(24)}"
    sequence = sequence_of(body, service.named_caller(response_id), _history(service, body))
    reply = _format(service, body, sequence, response_id)
    return sequence, reply, Recording(service, sequence, reply, is_on=body.store is not False)


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
