"""Routes for operators: with `--admin-api-key` only that key opens them, and the key of clients does not."""

from __future__ import annotations

import functools
import inspect

from aiohttp import web
from aiohttp.typedefs import Handler

from runtime.errors import Forbidden, Unauthorized
from runtime.http.keys import is_key
from runtime.http.service import SERVICE


def admin_only(handler: Handler) -> Handler:
    """`handler`, for operators only."""

    @functools.wraps(handler)
    async def guarded(request: web.Request) -> web.StreamResponse:
        http = request.app[SERVICE].config.http
        if http.admin_api_key is not None and not is_key(request, http.admin_api_key):
            if http.api_key is not None and is_key(request, http.api_key):
                raise Forbidden("this path is for operators: send the admin key", code="admin_key_needed")
            raise Unauthorized("this path needs the admin key: send it as 'Authorization: Bearer KEY'")
        return await handler(request)

    return guarded


def is_for_admins(handler: Handler) -> bool:
    """Whether `admin_only` made it, which alone wraps handlers."""
    return inspect.unwrap(handler) is not handler
