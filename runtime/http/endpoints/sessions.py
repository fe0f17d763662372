"""`/open_session` and `/close_session`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.schema.decoding import Label
from runtime.http.service import SERVICE
from runtime.http.sessions import IDLE_S


class OpenSession(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`capacity_of_str_len` is a hint of SGLang's that needs no room here. `timeout` is in seconds without use."""

    capacity_of_str_len: int | None = None
    session_id: Label | None = None
    streaming: bool | None = None
    timeout: float | None = None


class CloseSession(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    session_id: Label


async def open_session(request: web.Request) -> web.Response:
    """Begin a session; answers its id. It may be closed after `timeout` seconds without use if others need the room."""
    body = await read_body(request, OpenSession)
    service = request.app[SERVICE]
    if body.session_id == "":
        raise InvalidRequest("session_id must not be empty", param="session_id")
    if body.timeout is not None and body.timeout < 0:
        raise InvalidRequest("timeout must not be negative", param="timeout")
    session_id = body.session_id or service.new_hex(16)
    idle_s = IDLE_S if body.timeout is None else body.timeout
    service.sessions.open(session_id, service.clock.monotonic(), idle_s)
    return json_response(session_id)


async def close_session(request: web.Request) -> web.Response:
    """Forget a session; one that is not open is no error."""
    body = await read_body(request, CloseSession)
    request.app[SERVICE].sessions.close(body.session_id)
    return web.Response()


DOCUMENTS = {
    open_session: Document(body=OpenSession, reply=str),
    close_session: Document(body=CloseSession, content_type=None),
}
ROUTES = (
    web.post("/open_session", open_session),
    web.get("/open_session", open_session, allow_head=False),
    web.post("/close_session", close_session),
    web.get("/close_session", close_session, allow_head=False),
)
