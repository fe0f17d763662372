"""`/flush_cache`: forget all cached prefixes."""

from __future__ import annotations

import asyncio

from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.admin import admin_only
from runtime.http.document import TEXT, Document
from runtime.http.service import SERVICE, Service
from runtime.messages import FlushCache

MAX_TIMEOUT_S = 60.0
SETTLE_S = 1.0
"""A request that has just ended gives its pages back with the next step; clients flush right after it."""
POLL_S = 0.02


async def flush_cache(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    deadline = service.clock.monotonic() + _timeout_s(request, service)
    while True:
        flushed = await service.ask(service.cache, FlushCache())
        if flushed.num_leases == 0:
            return web.Response(text="Cache flushed.\n")
        if service.clock.monotonic() >= deadline:
            message = (
                f"the cache was not flushed completely: {flushed.num_leases} requests use it; wait for them or give a timeout"
            )
            raise InvalidRequest(message, code="cache_in_use")
        await asyncio.sleep(POLL_S)


def _timeout_s(request: web.Request, service: Service) -> float:
    """How long to wait for requests to end: `?timeout=` in seconds."""
    text = request.query.get("timeout")
    if text is None:
        return 0.0 if service.replies.num_open else SETTLE_S
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = -1.0
    if not 0.0 <= timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"timeout must be a number of seconds in [0, {MAX_TIMEOUT_S:g}]", param="timeout")
    return timeout_s


DOCUMENTS = {
    flush_cache: Document(
        query={"timeout": {"type": "number", "minimum": 0, "maximum": MAX_TIMEOUT_S}},
        content_type=TEXT,
        reply={"type": "string"},
    )
}
ROUTES = (web.get("/flush_cache", admin_only(flush_cache)), web.post("/flush_cache", admin_only(flush_cache)))
