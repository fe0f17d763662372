"""`/`: for people who open the address in a browser."""

from __future__ import annotations

from aiohttp import web


async def root(request: web.Request) -> web.Response:
    return web.Response(text="Callboard is running\n")


ROUTES = (web.get("/", root),)
