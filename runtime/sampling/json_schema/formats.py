"""The `format` keyword: which formats the backends write as grammars, and what becomes of the others.

The standard makes format an annotation unless a validator opts in, and unknown formats are ignored. Outputs are checked by
validators that opt in, so a standard format is done or refused; only unknown ones say nothing.
"""

from __future__ import annotations

from runtime.sampling.json_schema.refusal import unsupported

SUPPORTED = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
ALIASES = {"url": "uri", "ip-address": "ipv4", "host-name": "hostname", "guid": "uuid"}
"""Names from older drafts and from practice."""
REFUSED = frozenset(
    {
        "byte",
        "idn-email",
        "idn-hostname",
        "iri",
        "iri-reference",
        "json-pointer",
        "regex",
        "relative-json-pointer",
        "uri-reference",
        "uri-template",
    }
)


def backend_format(name: str, path: str) -> str | None:
    """The backends' name for a format; None for one that nobody knows. Raises `Unsupported`."""
    if name in REFUSED:
        raise unsupported(path, "format", f"{name!r} can not be written as a grammar")
    name = ALIASES.get(name, name)
    return name if name in SUPPORTED else None
