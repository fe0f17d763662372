"""`response_format`: OpenAI's way to constrain an output."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.schema.decoding import UNREAD, Unread, check_depth, decode_field, is_null
from runtime.http.schema.grammar import MAX_SCHEMA_BYTES, Found, json_schema
from runtime.params import GrammarSpec

JSON_OBJECT = GrammarSpec("json_object", "")

ResponseFormat = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["object", "null"],
            "properties": {"type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]}},
            "required": ["type"],
        }
    ),
]
"""Left unread, since a schema is compiled from the client's own bytes."""


class NamedSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`name`, `description` and `strict` change nothing: every schema is enforced."""

    schema: Unread = UNREAD
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Format(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`structures` and `triggers`, or the newer `format`, are of structural tags."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    structures: Unread = UNREAD
    triggers: Unread = UNREAD
    format: Unread = UNREAD


def response_grammar(field: ResponseFormat, param: str = "response_format") -> list[Found]:
    """The grammar and its place, if there is one. Raises `InvalidRequest`."""
    if is_null(field):
        return []
    wanted = decode_field(field, Format, param, MAX_SCHEMA_BYTES)
    match wanted.type:
        case "json_object":
            return [(param, JSON_OBJECT)]
        case "json_schema":
            return [(param, _named_schema(wanted.json_schema, f"{param}.json_schema"))]
        case "structural_tag":
            check_depth(decode_field(field, dict[str, Any], param, MAX_SCHEMA_BYTES), param)
            return [(param, GrammarSpec("structural_tag", bytes(field).decode()))]
        case "text":
            return []


def _named_schema(named: NamedSchema | None, param: str) -> GrammarSpec:
    if named is None:
        raise InvalidRequest(f"{param} is needed", param=param)
    schema = json_schema(named.schema, f"{param}.schema")
    if schema is None:
        raise InvalidRequest(f"{param}.schema is needed", param=f"{param}.schema")
    return schema
