"""A JSON schema as text, from whatever a program has: text, a dict, a pydantic model or a type that msgspec knows."""

from __future__ import annotations

import json
from typing import Any

from frontend.errors import ProgramError


def as_json_schema(schema: Any) -> str | None:
    """Raises `ProgramError` for a type that has no schema."""
    if schema is None or isinstance(schema, str):
        return schema
    if isinstance(schema, dict):
        return json.dumps(schema)
    if hasattr(schema, "model_json_schema"):
        return json.dumps(schema.model_json_schema())
    return json.dumps(_msgspec_schema(schema))


def _msgspec_schema(schema: Any) -> Any:
    import msgspec

    try:
        return msgspec.json.schema(schema)
    except TypeError as error:
        raise ProgramError(f"no JSON schema can be made from {schema!r}: {error}") from error
