"""The tools a request offers, as parsers see them: which names are known, and the schemas of their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MAX_NAME_CHARS = 256


class Tool(msgspec.Struct, frozen=True):
    """`parameters` is the JSON schema of the arguments; None: the tool takes none, or does not say which."""

    name: str
    parameters: dict[str, Any] | None = None


def tool_of(definition: Mapping[str, Any]) -> Tool:
    """From OpenAI's form `{"type": "function", "function": {"name", "parameters"?, …}}`."""
    function = definition["function"]
    return Tool(function["name"], function.get("parameters"))


class Tools:
    """A call of a tool that is not offered is no call."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def has(self, name: str) -> bool:
        return name in self._tools

    def types(self, name: str) -> Mapping[str, frozenset[str]]:
        """The JSON types that the schema allows for each argument of a tool, where it says so plainly."""
        parameters = self._tools[name].parameters or {}
        properties = parameters.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {key: types for key, schema in properties.items() if (types := types_of(schema))}


def types_of(schema: Any) -> frozenset[str]:
    """The JSON types that a schema allows; empty: any, or it does not say so plainly."""
    if not isinstance(schema, dict):
        return frozenset()
    if isinstance(schema.get("type"), str):
        return frozenset({schema["type"]})
    if isinstance(schema.get("type"), list):
        return frozenset(kind for kind in schema["type"] if isinstance(kind, str))
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return frozenset({"string"}) if all(isinstance(value, str) for value in schema["enum"]) else frozenset()
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(alternatives, list):
        kinds = [types_of(alternative) for alternative in alternatives]
        return frozenset().union(*kinds) if all(kinds) else frozenset()
    return frozenset()
