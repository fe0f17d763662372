"""Failures in the words of Anthropic's API, whose clients read another envelope than all others."""

from __future__ import annotations

import orjson

from runtime.errors import Failure

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """Whether a request for this path is for Anthropic's API."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def anthropic_envelope(failure: Failure) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}` as JSON."""
    return orjson.dumps({"type": "error", "error": {"type": _type(failure.status), "message": _message(failure)}})


def anthropic_event(failure: Failure) -> bytes:
    """The last event of a stream that breaks off."""
    return b"event: error\ndata: " + anthropic_envelope(failure) + b"\n\n"


def _type(status: int) -> str:
    return TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _message(failure: Failure) -> str:
    """With the name of the field, for which the envelope has no place."""
    if failure.param is None or failure.param in failure.message:
        return failure.message
    return f"{failure.param}: {failure.message}"
