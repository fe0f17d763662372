"""What goes wrong at a foreign API, said as `BackendError`s: HTTP statuses, broken connections, a package's exceptions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from frontend.errors import BackendError, Overloaded, ServerFailed, TimedOut, Unreachable

REQUEST_TIMEOUT = 408
OVERLOADED = (429, 503, 529)
HTTP_PACKAGES = ("httpx", "httpx2")
"""Client packages let their errors through when a stream breaks."""


def from_status(message: str, status: int, retry_after_s: float | None = None) -> BackendError:
    """What a refusal with that HTTP status means."""
    if status in OVERLOADED:
        return Overloaded(message, status=status, retry_after_s=retry_after_s)
    if status == REQUEST_TIMEOUT:
        return TimedOut(message, status=status, retry_after_s=retry_after_s)
    if status >= 500:
        return ServerFailed(message, status=status, retry_after_s=retry_after_s)
    return BackendError(message, status=status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The pause that a refusal asks for: in seconds, as a date (RFC 9110, 10.2.3), or in milliseconds, as OpenAI has it."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _number(text)
    return _seconds_until(text) if seconds is None else seconds


def transport_errors() -> tuple[type[BaseException], ...]:
    """All that a connection can break with, of the packages that are loaded."""
    loaded = [sys.modules[name] for name in HTTP_PACKAGES if name in sys.modules]
    return (aiohttp.ClientError, OSError, *(module.TransportError for module in loaded))


def from_transport(name: str, error: BaseException) -> BackendError:
    """`error` is one of `transport_errors`, which include `TimeoutError`."""
    loaded = [sys.modules[module] for module in HTTP_PACKAGES if module in sys.modules]
    if isinstance(error, (TimeoutError, *(module.TimeoutException for module in loaded))):
        return TimedOut(f"{name} did not answer in time")
    return Unreachable(f"{name}: the connection failed: {type(error).__name__}: {error}")


def from_package(package: Any, name: str, error: Any) -> BackendError:
    """`error` is an exception of `package`, which is `openai` or `anthropic`: their exceptions have the same names."""
    if isinstance(error, package.APITimeoutError):
        return TimedOut(f"{name} did not answer in time")
    if isinstance(error, package.APIConnectionError):
        return Unreachable(f"{name} can not be reached: {error.__cause__ or error}")
    message = f"{name}: {error}"
    if isinstance(error, package.APIStatusError) and error.status_code >= 400:
        return from_status(message, error.status_code, retry_after_s(error.response.headers))
    status = status_in(getattr(error, "body", None))
    return BackendError(message) if status is None else from_status(message, status)


STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def status_in(body: Any) -> int | None:
    """The HTTP status that an error inside a stream stands for, whose own status was 200."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    return code if isinstance(code, int) and code >= 400 else STATUS_OF_TYPE.get(str(error.get("type")))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _seconds_until(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
