"""`/openapi.json`, the description of all routes, and `/docs`, a page that shows it."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from runtime.http.document import Document
from runtime.http.openapi import DESCRIPTION
from runtime.http.responses import json_bytes

PAGE = files("runtime.http").joinpath("docs.html").read_bytes()


async def openapi_json(request: web.Request) -> web.Response:
    """This description."""
    return json_bytes(request.app[DESCRIPTION].json)


async def docs(request: web.Request) -> web.Response:
    """This description, as a page."""
    return web.Response(body=PAGE, content_type="text/html", charset="utf-8")


DOCUMENTS = {
    openapi_json: Document(reply={"type": "object"}),
    docs: Document(content_type="text/html", reply={"type": "string"}),
}
ROUTES = (web.get("/openapi.json", openapi_json), web.get("/docs", docs))
