"""Where endpoints find the files and batches of this server."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from runtime.batch_port import BatchPort
from runtime.errors import InvalidRequest, Unavailable

BATCHES = web.AppKey("batches", BatchPort)


def batches_of(request: web.Request) -> BatchPort:
    """Raises `Unavailable` if this server was started without."""
    batches = request.app.get(BATCHES)
    if batches is None:
        raise Unavailable("this server has no storage for files", code="storage_failed")
    return batches


def struct_response(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def page(rows: list[Any], limit: int) -> dict[str, Any]:
    """OpenAI's list of at most `limit` of `rows`, which are asked for with one more than that."""
    shown = rows[:limit]
    return {
        "object": "list",
        "data": [msgspec.to_builtins(row) for row in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(rows) > limit,
    }


def limit_of(request: web.Request, default: int, most: int) -> int:
    """The query's `limit`. Raises `InvalidRequest`."""
    text = request.query.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequest(f"limit must be in [1, {most}]", param="limit")
    return int(text)
