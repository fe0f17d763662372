"""From failures that crossed mailboxes back to exceptions, and to the one JSON envelope of all errors."""

from __future__ import annotations

from typing import Any

import orjson

from runtime.errors import (
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    Failure,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestError,
    RequestTimeout,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)

_KINDS: dict[tuple[int, str], type[RequestError]] = {
    (kind.status, kind.type): kind
    for kind in (
        InvalidRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        RequestTimeout,
        Conflict,
        BodyTooLarge,
        UnsupportedMediaType,
        InternalError,
        Unavailable,
        Overloaded,
        DeadlineExceeded,
    )
}


def error_of(failure: Failure) -> RequestError:
    """An exception that carries exactly `failure`."""
    kind = _KINDS.get((failure.status, failure.type), InternalError)
    error = kind(failure.message)
    error.failure = failure
    return error


def envelope(failure: Failure, **more: Any) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}` as JSON, with the entries of `more` after it."""
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return orjson.dumps({"error": error} | more)
