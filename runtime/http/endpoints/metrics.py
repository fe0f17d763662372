"""`/metrics` in Prometheus' text format."""

from __future__ import annotations

from aiohttp import web

from runtime.http.document import TEXT, Document
from runtime.http.service import SERVICE
from runtime.messages import Scrape

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    return web.Response(body=await service.ask(service.metrics, Scrape()), headers={"Content-Type": CONTENT_TYPE})


DOCUMENTS = {metrics: Document(content_type=TEXT, reply={"type": "string"})}
ROUTES = (web.get("/metrics", metrics),)
