"""What the endpoints of the OpenAI API do once their body is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from runtime.http.generation import Generation
from runtime.http.openai_format import Head, OpenAiFormat
from runtime.http.responses import json_response
from runtime.http.schema.openai import OpenAiRequest
from runtime.http.service import SERVICE, Service
from runtime.http.stream import stream


async def answer(
    request: web.Request,
    body: OpenAiRequest,
    generations: Sequence[Generation],
    make_format: Callable[[Head], OpenAiFormat],
) -> web.StreamResponse:
    """Generate and reply, as a stream or whole. Raises `RequestError`."""
    service = request.app[SERVICE]
    reply = make_format(_head(service, body, generations[0].label))
    with service.open(generations, is_streaming=bool(body.stream)) as bundle:
        if body.stream:
            return await stream(request, bundle, reply)
        return json_response(reply.whole(await bundle.whole()))


def _head(service: Service, body: OpenAiRequest, label: str) -> Head:
    options = body.stream_options
    return Head(
        id=label,
        created=int(service.clock.wall()),
        model=body.model or service.info.served_model_name,
        n=body.n or 1,
        reports_cache=service.config.http.enable_cache_report,
        streams_usage=bool(options and options.include_usage),
        streams_running_usage=bool(options and options.continuous_usage_stats),
    )
