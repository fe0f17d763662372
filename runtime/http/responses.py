"""JSON responses, of results and of failures."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from runtime.errors import Failure
from runtime.http.anthropic_failure import anthropic_envelope, is_anthropic
from runtime.http.failure import envelope

CLOSING_STATUSES = frozenset({408, 413})
"""After these the rest of the body is not read, so the connection can not be used again."""


def json_response(value: Any) -> web.Response:
    return json_bytes(orjson.dumps(value))


def json_bytes(body: bytes) -> web.Response:
    """A response of JSON that is encoded already."""
    return web.Response(body=body, content_type="application/json")


def error_response(failure: Failure, path: str = "", **more: Any) -> web.Response:
    """The envelope under its status, with the headers that tell clients and proxies whether and when to try again.

    `path` is that of the request, since Anthropic's clients read an envelope of their own. `more` are entries beside `error`,
    where clients of SGLang look for them.
    """
    body = anthropic_envelope(failure) if is_anthropic(path) else envelope(failure, **more)
    response = web.Response(status=failure.status, body=body, content_type="application/json")
    if failure.retry_after is not None:
        response.headers["Retry-After"] = str(failure.retry_after)
    if failure.status >= 500:
        response.headers["x-should-retry"] = "true" if failure.status == 503 else "false"
    if failure.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if failure.status in CLOSING_STATUSES or failure.code == "draining":
        response.force_close()
    return response
