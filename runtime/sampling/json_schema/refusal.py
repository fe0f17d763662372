"""Why a schema is refused, always with the keyword and where it stands."""

from __future__ import annotations

from runtime.errors import InvalidRequest, Unsupported

PARAM = "json_schema"
MAX_SHOWN_CHARS = 120


def malformed(path: str, problem: str) -> InvalidRequest:
    """The schema is not one: `path` is a JSON pointer as a fragment, `#/properties/a/type`."""
    return InvalidRequest(f"{shown(path)} of the JSON schema {problem}", param=PARAM)


def unsupported(path: str, keyword: str, reason: str) -> Unsupported:
    """The schema is fine, but no backend does `keyword` at `path` faithfully."""
    return Unsupported(f"JSON schema keyword {shown(keyword)!r} at {shown(path)} is not supported: {reason}", param=PARAM)


def shown(text: str) -> str:
    """At most `MAX_SHOWN_CHARS` of what a client wrote."""
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"


def step(path: str, *names: str | int) -> str:
    """The pointer one or more steps down from `path`."""
    return "/".join((path, *(str(name).replace("~", "~0").replace("/", "~1") for name in names)))
