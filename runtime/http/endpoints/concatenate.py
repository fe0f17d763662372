"""`/concate_and_append_request`: what SGLang's frontend calls to join forks. Their text is joined in the client already."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.schema.decoding import UNREAD, Unread


class ConcatenateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    src_rids: Unread = UNREAD
    dst_rid: Unread = UNREAD


async def concatenate(request: web.Request) -> web.Response:
    """Nothing has to be done: the next prompt has the text of all forks, and the cache finds what it can."""
    await read_body(request, ConcatenateRequest)
    return web.Response()


DOCUMENTS = {concatenate: Document(body=ConcatenateRequest, content_type=None)}
ROUTES = (web.post("/concate_and_append_request", concatenate),)
