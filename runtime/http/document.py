"""What the OpenAPI document says about a handler, beside the path and the method.

An endpoint module says it in `DOCUMENTS`, by handler. What is left out there is what most handlers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"


GENERATION = (404, 409, 504)
"""Statuses of what takes a model, a session and time."""

COMMAND = (404, 409)
"""Statuses of commands that the engine may refuse."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """`body` and `reply` are types that msgspec knows, or JSON schemas; None is no body, and any JSON."""

    body: type | None = None
    is_body_optional: bool = False
    body_content_type: str = JSON
    reply: Any = None
    content_type: str | None = JSON
    """None: the reply has no body."""
    streams: bool = False
    """With `stream` the reply is server-sent events."""
    query: Mapping[str, Mapping[str, Any]] = {}
    """Schemas of the parameters in the URL."""
    errors: tuple[int, ...] = ()
    """Statuses beside those that every route of its kind can have."""


Documents = dict[Callable[..., Any], Document]

EMPTY = Document(content_type=None)
"""A GET that answers nothing."""
