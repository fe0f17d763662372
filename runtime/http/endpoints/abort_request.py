"""`/abort_request`: end the requests that bear an id, exactly, or all of them. An unknown id is not an error."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.schema.decoding import UNREAD, Unread
from runtime.http.service import SERVICE


class AbortRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    rid: str | None = None
    abort_all: bool | None = None
    abort_message: Unread = UNREAD


async def abort_request(request: web.Request) -> web.Response:
    body = await read_body(request, AbortRequest)
    if not body.rid and not body.abort_all:
        raise InvalidRequest("give the rid of the request, or abort_all", param="rid")
    request.app[SERVICE].replies.cancel_labelled(None if body.abort_all else body.rid)
    return web.Response()


DOCUMENTS = {abort_request: Document(body=AbortRequest, content_type=None)}
ROUTES = (web.post("/abort_request", abort_request),)
