"""`/`: for people who open the address in a browser."""

from __future__ import annotations

from aiohttp import web

from runtime.http.document import TEXT, Document


async def root(request: web.Request) -> web.Response:
    return web.Response(text="Callboard is running\n")


DOCUMENTS = {root: Document(content_type=TEXT, reply={"type": "string"})}
ROUTES = (web.get("/", root),)
