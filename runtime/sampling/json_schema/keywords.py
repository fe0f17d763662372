"""The keywords of JSON Schema: which assert something, and what their values must look like.

Keywords that are not here are annotations, as the standard has it for unknown ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.sampling.json_schema.refusal import malformed, step

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def is_schema(value: Any) -> bool:
    return isinstance(value, bool | dict)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_number(value) and value >= 0 and value == int(value)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and all(is_schema(item) for item in value)


def _is_schema_map(value: Any) -> bool:
    return isinstance(value, dict) and all(is_schema(item) for item in value.values())


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_dependencies(value: Any) -> bool:
    return isinstance(value, dict) and all(is_schema(item) or _is_strings(item) for item in value.values())


Check = tuple[Callable[[Any], bool], str]
SCHEMA: Check = (is_schema, "must be a schema")
SCHEMAS: Check = (_is_schemas, "must be a list of schemas")
SCHEMA_MAP: Check = (_is_schema_map, "must be an object of schemas")
NUMBER: Check = (is_number, "must be a number")
COUNT: Check = (is_count, "must be a whole number of at least 0")
STRING: Check = (lambda value: isinstance(value, str), "must be a string")
ANYTHING: Check = (lambda value: True, "")
LIMIT: Check = (lambda value: is_number(value) or isinstance(value, bool), "must be a number")

ASSERTIONS: dict[str, Check] = {
    "$ref": STRING,
    "type": (_is_type, f"must be one or more of {', '.join(TYPES)}"),
    "enum": (lambda value: isinstance(value, list), "must be a list"),
    "const": ANYTHING,
    "allOf": SCHEMAS,
    "anyOf": SCHEMAS,
    "oneOf": SCHEMAS,
    "not": SCHEMA,
    "if": SCHEMA,
    "then": SCHEMA,
    "else": SCHEMA,
    "properties": SCHEMA_MAP,
    "patternProperties": SCHEMA_MAP,
    "additionalProperties": SCHEMA,
    "propertyNames": SCHEMA,
    "required": (lambda value: _is_strings(value) or isinstance(value, bool), "must be a list of strings"),
    "minProperties": COUNT,
    "maxProperties": COUNT,
    "dependencies": (_is_dependencies, "must be an object of schemas or lists of strings"),
    "dependentRequired": (_is_dependencies, "must be an object of lists of strings"),
    "dependentSchemas": SCHEMA_MAP,
    "items": (lambda value: is_schema(value) or _is_schemas(value), "must be a schema or a list of schemas"),
    "prefixItems": SCHEMAS,
    "additionalItems": SCHEMA,
    "minItems": COUNT,
    "maxItems": COUNT,
    "uniqueItems": (lambda value: isinstance(value, bool), "must be true or false"),
    "contains": SCHEMA,
    "minContains": COUNT,
    "maxContains": COUNT,
    "minLength": COUNT,
    "maxLength": COUNT,
    "pattern": STRING,
    "format": STRING,
    "minimum": NUMBER,
    "maximum": NUMBER,
    "exclusiveMinimum": LIMIT,
    "exclusiveMaximum": LIMIT,
    "multipleOf": (lambda value: is_number(value) and value > 0, "must be a number above 0"),
    "unevaluatedProperties": SCHEMA,
    "unevaluatedItems": SCHEMA,
    "$dynamicRef": STRING,
    "$recursiveRef": STRING,
}


def assertions(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The keywords of a schema that assert something, in their order. Raises `InvalidRequest` for a malformed one."""
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword not in ASSERTIONS:
            continue
        is_fine, problem = ASSERTIONS[keyword]
        if not is_fine(value):
            raise malformed(step(path, keyword), problem)
        found[keyword] = value
    return found


def types_in(schema: dict[str, Any]) -> tuple[str, ...]:
    """What `type` names; all types without it."""
    named = schema.get("type", TYPES)
    return (named,) if isinstance(named, str) else tuple(named)
