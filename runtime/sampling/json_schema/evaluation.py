"""Whether one value satisfies a schema: for values that a schema lists, where the answer can be computed beforehand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from runtime.sampling.json_schema.document import Schema
from runtime.sampling.json_schema.keywords import types_in
from runtime.sampling.json_schema.modern import Reader
from runtime.sampling.json_schema.refusal import step, unsupported

MAX_STEPS = 50_000


class Evaluator:
    """Judges values by the schemas of one document. Raises `Unsupported` where it can not, and after `MAX_STEPS` schemas."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._num_steps = 0

    def accepts(self, schema: Schema, value: Any, path: str, depth: int = 0) -> bool:
        self._num_steps += 1
        if depth > 100 or self._num_steps > MAX_STEPS:
            raise unsupported(path, "enum", "its values take too long to check against the rest of the schema")
        found = self._reader.read(schema, path)
        if isinstance(found, bool):
            return found
        if "$ref" in found:
            target = found.pop("$ref")
            if not self.accepts(self._reader.follow(target, path), value, target, depth + 1):
                return False
        return self._accepts_read(found, value, path, depth + 1)

    def _accepts_read(self, found: dict[str, Any], value: Any, path: str, depth: int) -> bool:
        for keyword in ("uniqueItems", "contains", "unevaluatedProperties", "unevaluatedItems", "propertyNames"):
            if keyword in found and isinstance(value, dict if "Prop" in keyword or "prop" in keyword else list):
                raise unsupported(path, keyword, "listed values are not checked against it")
        if not any(_has_type(value, name) for name in types_in(found)):
            return False
        if "enum" in found and not any(equal(value, listed) for listed in found["enum"]):
            return False
        return (
            self._accepts_scalar(found, value, path)
            and self._accepts_combination(found, value, path, depth)
            and self._accepts_object(found, value, path, depth)
            and self._accepts_array(found, value, path, depth)
        )

    def _accepts_scalar(self, found: dict[str, Any], value: Any, path: str) -> bool:
        if isinstance(value, str):
            if "format" in found:
                raise unsupported(path, "format", "listed values are not checked against it")
            if "pattern" in found and not self._matches(found["pattern"], value, path):
                return False
            return _in_range(len(value), found, "minLength", "maxLength")
        if not _has_type(value, "number"):
            return True
        if "multipleOf" in found and Fraction(str(value)) % Fraction(str(found["multipleOf"])) != 0:
            return False
        low, high = found.get("exclusiveMinimum", -math.inf), found.get("exclusiveMaximum", math.inf)
        return low < value < high and _in_range(value, found, "minimum", "maximum")

    def _matches(self, pattern: str, text: str, path: str) -> bool:
        try:
            return re.search(pattern, text) is not None
        except (re.error, OverflowError, RecursionError):
            raise unsupported(path, "pattern", "it is not a regular expression that can be checked") from None

    def _accepts_combination(self, found: dict[str, Any], value: Any, path: str, depth: int) -> bool:
        def accepts(keyword: str) -> bool:
            return self.accepts(found[keyword], value, step(path, keyword), depth)

        def count(keyword: str) -> int:
            branches = enumerate(found[keyword])
            return sum(self.accepts(branch, value, step(path, keyword, index), depth) for index, branch in branches)

        if "if" in found:
            keyword = "then" if accepts("if") else "else"
            if keyword in found and not accepts(keyword):
                return False
        return (
            ("allOf" not in found or count("allOf") == len(found["allOf"]))
            and ("anyOf" not in found or count("anyOf") > 0)
            and ("oneOf" not in found or count("oneOf") == 1)
            and ("not" not in found or not accepts("not"))
        )

    def _accepts_object(self, found: dict[str, Any], value: Any, path: str, depth: int) -> bool:
        if not isinstance(value, dict):
            return True
        needed = set(found.get("required", ()))
        for name, names in found.get("dependentRequired", {}).items():
            needed |= set(names) if name in value else set()
        if needed - value.keys() or not _in_range(len(value), found, "minProperties", "maxProperties"):
            return False
        for name, schema in found.get("dependentSchemas", {}).items():
            if name in value and not self.accepts(schema, value, step(path, "dependentSchemas", name), depth):
                return False
        return all(self._accepts_member(found, name, member, path, depth) for name, member in value.items())

    def _accepts_member(self, found: dict[str, Any], name: str, value: Any, path: str, depth: int) -> bool:
        return all(
            self.accepts(schema, value, where, depth)
            for schema, where in member_schemas(found, name, path, lambda pattern: self._matches(pattern, name, path))
        )

    def _accepts_array(self, found: dict[str, Any], value: Any, path: str, depth: int) -> bool:
        if not isinstance(value, list):
            return True
        prefix = found.get("prefixItems", [])
        schemas = [*prefix, *[found.get("items", True)] * (len(value) - len(prefix))]
        return _in_range(len(value), found, "minItems", "maxItems") and all(
            self.accepts(schema, item, step(path, "items"), depth) for schema, item in zip(schemas, value, strict=False)
        )


def member_schemas(found: dict[str, Any], name: str, path: str, matches: Callable[[str], bool]) -> list[tuple[Schema, str]]:
    """The schemas that the value of property `name` has to satisfy, and where they stand."""
    schemas: list[tuple[Schema, str]] = []
    if name in found.get("properties", {}):
        schemas.append((found["properties"][name], step(path, "properties", name)))
    for pattern, schema in found.get("patternProperties", {}).items():
        if matches(pattern):
            schemas.append((schema, step(path, "patternProperties", pattern)))
    if not schemas and "additionalProperties" in found:
        schemas.append((found["additionalProperties"], step(path, "additionalProperties")))
    return schemas


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: 1 is 1.0 but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return bool(one == other)


def type_of(value: Any) -> str:
    """`number` for one with a fraction, `integer` for one without."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _has_type(value: Any, name: str) -> bool:
    return type_of(value) == name or (name == "number" and type_of(value) == "integer")


def _in_range(size: float, found: dict[str, Any], low: str, high: str) -> bool:
    return bool(found.get(low, -math.inf) <= size <= found.get(high, math.inf))
