"""Every error that Callboard raises on purpose, and the HTTP status of each.

    CallboardError
    ├── ConfigError              a flag or its value is wrong              process exits 2
    ├── LoadError                model, tokenizer or weights do not load   process exits 3
    ├── StartError               port busy, disk full, no network          process exits 4
    ├── EngineError              the executor can not go on                process exits 5
    │   ├── RankLost                 another rank is gone or stuck             process exits 6, without a restart
    │   └── DeviceLost               the GPU computes nothing any more         process exits 7, without a restart
    └── RequestError             ends one request, never the server
        ├── InvalidRequest           400 invalid_request_error
        ├── ContextLengthExceeded    400 invalid_request_error / context_length_exceeded
        ├── Unsupported              400 invalid_request_error / unsupported_parameter
        ├── Unauthorized             401 authentication_error / invalid_api_key
        ├── Forbidden                403 permission_error
        ├── NotFound                 404 not_found_error
        ├── MethodNotAllowed         405 invalid_request_error
        ├── RequestTimeout           408 timeout_error
        ├── Conflict                 409 conflict_error
        ├── BodyTooLarge             413 invalid_request_error
        ├── UnsupportedMediaType     415 invalid_request_error
        ├── InternalError            500 server_error (fixed text, details only in the log)
        ├── Unavailable              503 unavailable_error / starting, draining, engine_restarting
        ├── Overloaded               503 overloaded_error / queue_full, kv_cache_exhausted
        └── DeadlineExceeded         504 timeout_error / deadline_exceeded

A `RequestError` carries its `Failure`, the value that crosses mailboxes and becomes the one error envelope
`{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request ended without a result; `retry_after` is in whole seconds."""

    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None


class CallboardError(Exception):
    """Base of all errors raised on purpose; its text is one line that says what to do next."""

    exit_code: ClassVar[int] = 1


class ConfigError(CallboardError):
    exit_code = 2


class LoadError(CallboardError):
    exit_code = 3


class StartError(CallboardError):
    exit_code = 4


class EngineError(CallboardError):
    exit_code = 5
    is_final: ClassVar[bool] = False
    """Whether a restart of the engine group can not mend it, so that the process has to end."""


class RankLost(EngineError):
    """A collective failed. The engine group is not restarted: its ranks have lost each other for good."""

    exit_code = 6
    is_final = True


class DeviceLost(EngineError):
    """An error of the device that every later call in this process reports again: nothing can be computed any more."""

    exit_code = 7
    is_final = True


class RequestError(CallboardError):
    """Ends one request. `param` names the offending field as the client wrote it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            status=self.status,
            type=self.type,
            message=message,
            code=code or self.default_code,
            param=param,
            retry_after=retry_after,
        )


class InvalidRequest(RequestError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    default_code = "context_length_exceeded"


class Unsupported(InvalidRequest):
    default_code = "unsupported_parameter"


class Unauthorized(RequestError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    type = "permission_error"


class NotFound(RequestError):
    status = 404
    type = "not_found_error"


class MethodNotAllowed(RequestError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(RequestError):
    status = 408
    type = "timeout_error"


class Conflict(RequestError):
    status = 409
    type = "conflict_error"


class BodyTooLarge(RequestError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    type = "invalid_request_error"


class InternalError(RequestError):
    status = 500
    type = "server_error"


class Unavailable(RequestError):
    status = 503
    type = "unavailable_error"


class Overloaded(RequestError):
    status = 503
    type = "overloaded_error"
    default_code = "queue_full"


class DeadlineExceeded(RequestError):
    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"
