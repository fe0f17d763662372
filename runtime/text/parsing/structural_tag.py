"""Structural tags: grammars of output in which fixed markup surrounds free text and JSON, in the form that xgrammar defines.

These functions build the JSON of the formats; see `xgrammar.structural_tag` for what each means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.errors import InvalidRequest
from runtime.params import GrammarSpec
from runtime.text.parsing.tools import Tool

Format = dict[str, Any]

_REFERRING = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"})
"""Keywords of schemas that leave it to others to say what type they are of."""


def spec(format_: Format) -> GrammarSpec:
    source = msgspec.json.encode({"type": "structural_tag", "format": format_}).decode()
    return GrammarSpec(kind="structural_tag", source=source)


def format_of(grammar: GrammarSpec) -> Format:
    """Any grammar as a format. Raises `InvalidRequest` if the source of a schema or of a structural tag is no JSON object."""
    if grammar.kind == "regex":
        return regex(grammar.source)
    if grammar.kind == "ebnf":
        return {"type": "grammar", "grammar": grammar.source}
    if grammar.kind == "json_object":
        return json_schema({"type": "object"})
    try:
        source = msgspec.json.decode(grammar.source)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the {grammar.kind} is not valid JSON: {error}") from None
    if grammar.kind == "json_schema":
        return json_schema(source)
    if not isinstance(source, dict):
        raise InvalidRequest("the structural tag must be a JSON object")
    return _format_of_tag(source)


def _format_of_tag(source: dict[str, Any]) -> Format:
    """Of both forms: `{"format": …}`, and the older `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`."""
    if isinstance(source.get("format"), dict):
        return dict(source["format"])
    structures = source.get("structures")
    if not isinstance(structures, list) or not all(isinstance(one, dict) for one in structures):
        raise InvalidRequest("the structural tag needs a format, or structures and triggers")
    content = [tag(one.get("begin", ""), json_schema(one.get("schema", True)), one.get("end", "")) for one in structures]
    return {"type": "triggered_tags", "triggers": source.get("triggers", []), "tags": content}


def json_schema(schema: Any, style: str = "json") -> Format:
    return {"type": "json_schema", "json_schema": schema, "style": style}


def const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def regex(pattern: str) -> Format:
    return {"type": "regex", "pattern": pattern}


def any_text() -> Format:
    return {"type": "any_text"}


def sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def optional(content: Format) -> Format:
    return {"type": "optional", "content": content}


def tag(begin: str, content: Format, end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def arguments(tool: Tool, style: str = "json") -> Format:
    """What the tool takes: an object, also where its schema forgets to say so."""
    schema = tool.parameters or {"properties": {}}
    return json_schema(schema if schema.keys() & _REFERRING else {**schema, "type": "object"}, style)


def calls(tags: Sequence[Format], separator: str, *, parallel: bool) -> Format:
    """One of `tags`, or, with `parallel`, one or more."""
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def json_name(tool: Tool) -> str:
    """The name as it is written inside a JSON string."""
    return msgspec.json.encode(tool.name).decode()[1:-1]
