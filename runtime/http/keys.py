"""API keys, compared in the same time whatever they are."""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import web


def is_key(request: web.Request, api_key: str) -> bool:
    """Whether the request has the header `Authorization: Bearer <api_key>`, or Anthropic's `x-api-key: <api_key>`."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    # Digests have one length, so that the comparison takes the same time for all keys.
    return hmac.compare_digest(_digest(given), _digest(api_key))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
