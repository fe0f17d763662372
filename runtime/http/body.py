"""Reading request bodies within their limits."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web

from runtime.errors import BodyTooLarge, RequestTimeout, UnsupportedMediaType
from runtime.http.schema.decoding import decode
from runtime.http.service import SERVICE

UPLOAD_TIMEOUT_S = 120.0

_T = TypeVar("_T")


async def read_body(request: web.Request, kind: type[_T]) -> _T:
    """The JSON body as a `kind`. Raises what `read_bytes` and `decode` raise."""
    return decode(await read_bytes(request), kind)


async def read_optional_body(request: web.Request, kind: type[_T]) -> _T:
    """The same, where an empty body stands for `{}`."""
    return decode(await read_bytes(request) or b"{}", kind)


async def read_bytes(request: web.Request) -> bytes:
    """The whole body. Raises `BodyTooLarge`, for a body that says its size before it is read.

    Any content type is taken, since clients often send none. Compressed bodies are refused: nobody sends them, and a small one
    can hide gigabytes.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not accepted")
    limit = request.app[SERVICE].config.http.max_body_bytes
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body is larger than {limit} bytes")
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {UPLOAD_TIMEOUT_S:g} s") from None
