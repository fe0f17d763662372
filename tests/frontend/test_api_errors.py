"""How long a refusal asks to wait, and what statuses inside streams mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from frontend.api_errors import from_status, retry_after_s, status_in
from frontend.backends.gemini import _retry_delay_s
from frontend.errors import BackendError, Overloaded, ServerFailed, TimedOut
from frontend.retry import Retry


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_a_pause_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_a_date_is_a_pause_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    pause_s = retry_after_s({"retry-after": date})
    assert pause_s is not None
    assert 3000 < pause_s <= 3600


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}}, 34.5),
        ({"error": {"details": [{"@type": "type.googleapis.com/google.rpc.Help"}]}}, None),
        ({"error": "?"}, None),
        ([], None),
    ],
)
def test_geminis_pause_is_in_the_body(details: Any, expected: float | None) -> None:
    assert _retry_delay_s(details) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, BackendError), (408, TimedOut), (429, Overloaded), (500, ServerFailed), (503, Overloaded), (529, Overloaded)],
)
def test_statuses_have_their_errors(status: int, expected: type[BackendError]) -> None:
    error = from_status("no", status, 1.0)
    assert type(error) is expected
    assert error.status == status
    assert error.is_retryable == (status != 400)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, 529),
        ({"error": {"code": 503}}, 503),
        ({"type": "server_error", "code": None}, 500),
        ({"type": "new"}, None),
        ("text", None),
    ],
)
def test_an_error_in_a_stream_stands_for_a_status(body: Any, expected: int | None) -> None:
    assert status_in(body) == expected


def test_retries_are_counted_as_packages_do() -> None:
    assert Retry.of(None) == Retry()
    assert Retry.of(0).num_tries == 1
