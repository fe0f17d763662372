"""The opposite of a schema, as a schema without `not`.

A value fails a schema if it fails one of its keywords, so the opposite is an `anyOf` over the keywords, each with the type to
which the keyword applies. What would need "some item" or "some other property" has no opposite and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from runtime.sampling.json_schema.document import Schema
from runtime.sampling.json_schema.evaluation import type_of
from runtime.sampling.json_schema.keywords import TYPES, types_in
from runtime.sampling.json_schema.modern import Reader
from runtime.sampling.json_schema.patterns import literal_texts, none_of
from runtime.sampling.json_schema.refusal import step, unsupported

MAX_NESTING = 40

BOUNDS = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
"""Keyword: the type it applies to, its opposite, and what to add to the bound."""


ALL_TYPES = frozenset(TYPES) - {"integer"}
APPLIES_TO = {
    **{keyword: kind for keyword, (kind, _, _) in BOUNDS.items()},
    "multipleOf": "number",
    **dict.fromkeys(("pattern", "format"), "string"),
    **dict.fromkeys(("items", "prefixItems", "uniqueItems", "contains", "unevaluatedItems"), "array"),
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "propertyNames", "required"), "object"),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "unevaluatedProperties"), "object"),
}
"""The one type that a keyword says something about; those that are not here speak of all."""


class Negator:
    """Opposites of the schemas of one document. Raises `Unsupported` with the keyword that has none."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def negate(self, schema: Schema, path: str, depth: int = 0, only: frozenset[str] = ALL_TYPES) -> Schema:
        """The opposite among values whose type is in `only`, where `number` stands for integers too; of others it may
        accept any or none."""
        found = self._reader.read(schema, path)
        if isinstance(found, bool):
            return not found
        if depth > MAX_NESTING:
            raise unsupported(path, "not", "it is nested too deeply, or refers to itself")
        branches: list[Schema] = []
        for keyword, value in found.items():
            if APPLIES_TO.get(keyword) in (None, *only):
                branches += self._fail(keyword, value, found, path, depth + 1, only)
        branches = [branch for branch in branches if branch is not False]
        return {"anyOf": branches} if branches else False

    def _fail(
        self, keyword: str, value: Any, found: dict[str, Any], path: str, depth: int, only: frozenset[str]
    ) -> list[Schema]:
        """Schemas of the values that fail this keyword, whatever they do with the others."""
        where = step(path, keyword)
        if keyword in BOUNDS:
            return _outside_bound(keyword, value)
        match keyword:
            case "type":
                return _other_types(types_in(found), where)
            case "enum":
                return _other_values(value, where)
            case "pattern":
                return [_other_text(value, where)]
            case "required":
                return [_without(name) for name in value]
            case "then" | "else":
                return []  # with `if`
            case "allOf" | "not" | "anyOf" | "oneOf" | "if" | "$ref":
                return self._fail_combination(keyword, value, found, path, depth, only)
            case "properties" | "prefixItems" | "dependentRequired" | "dependentSchemas":
                return self._fail_member(keyword, value, where, depth)
        if value is True or (keyword in ("propertyNames", "items") and value is False):
            return [] if value is True else [_not_empty(keyword, len(found.get("prefixItems", ())))]
        raise unsupported(where, keyword, "its opposite, which `not` or `oneOf` needs, can not be written as a grammar")

    def _fail_combination(
        self, keyword: str, value: Any, found: dict[str, Any], path: str, depth: int, only: frozenset[str]
    ) -> list[Schema]:
        where = step(path, keyword)

        def opposite(branch: Schema, path: str) -> Schema:
            return self.negate(branch, path, depth, only)

        def opposites() -> list[Schema]:
            return [opposite(branch, step(where, index)) for index, branch in enumerate(value)]

        match keyword:
            case "$ref":
                return [opposite(self._reader.follow(value, path), value)]
            case "not":
                return [value]
            case "allOf":
                return opposites()
            case "anyOf":
                return [{"allOf": opposites()}]
            case "oneOf":
                pairs = [{"allOf": [one, other]} for index, one in enumerate(value) for other in value[:index]]
                return [{"allOf": opposites()}, *pairs]
        return [
            {"allOf": [value, opposite(found.get("then", True), step(path, "then"))]},
            {"allOf": [opposite(value, where), opposite(found.get("else", True), step(path, "else"))]},
        ]

    def _fail_member(self, keyword: str, value: Any, where: str, depth: int) -> list[Schema]:
        """For keywords that say something of named members: one of them is there and wrong."""
        if keyword == "dependentRequired":
            return [{"allOf": [_with(name), _without(other)]} for name, others in value.items() for other in others]
        members: Iterable[tuple[Any, Schema]] = enumerate(value) if keyword == "prefixItems" else value.items()
        branches: list[Schema] = []
        for name, schema in members:
            opposite = self.negate(schema, step(where, name), depth)
            if opposite is False:
                continue
            if keyword == "properties":
                branches.append(_with(name) | {"properties": {name: opposite}})
            elif keyword == "dependentSchemas":
                branches.append({"allOf": [_with(name), opposite]})
            else:
                branches.append({"type": "array", "minItems": name + 1, "prefixItems": [*[True] * name, opposite]})
        return branches


def _with(name: str) -> dict[str, Any]:
    return {"type": "object", "required": [name]}


def _without(name: str) -> Schema:
    return {"type": "object", "properties": {name: False}}


def _not_empty(keyword: str, num_before: int) -> Schema:
    if keyword == "propertyNames":
        return {"type": "object", "minProperties": 1}
    return {"type": "array", "minItems": num_before + 1}


def _outside_bound(keyword: str, value: float) -> list[Schema]:
    kind, opposite, shift = BOUNDS[keyword]
    bound = value + shift if shift else value
    return [] if shift and bound < 0 else [{"type": kind, opposite: bound}]


def _other_types(types: tuple[str, ...], where: str) -> list[Schema]:
    if "integer" in types and "number" not in types:
        raise unsupported(where, "type", "'integer' has no opposite that a grammar can express")
    left_out = {*types, "integer"}
    others = [name for name in TYPES if name not in left_out]
    return [{"type": others}] if others else []


def _other_values(values: list[Any], where: str) -> list[Schema]:
    """Everything that is not listed, type by type."""
    branches: list[Schema] = []
    types = {"number" if type_of(value) == "integer" else type_of(value) for value in values}
    if types & {"array", "object"}:
        raise unsupported(where, "enum", "an array or object in it has no opposite that a grammar can express")
    branches += _other_types(tuple(types), where)
    if "string" in types:
        branches.append({"type": "string", "pattern": none_of([value for value in values if isinstance(value, str)])})
    if "boolean" in types:
        branches.append({"enum": [value for value in (False, True) if not any(value is listed for listed in values)]})
    if "number" in types:
        branches += _other_numbers(sorted({value for value in values if type_of(value) in ("integer", "number")}))
    return branches


def _other_numbers(values: list[float]) -> list[Schema]:
    """The open intervals between them."""
    edges: list[float | None] = [None, *values, None]
    branches: list[Schema] = []
    for low, high in pairwise(edges):
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
        branches.append({"type": "number"} | {name: bound for name, bound in bounds.items() if bound is not None})
    return branches


def _other_text(pattern: str, where: str) -> Schema:
    texts = literal_texts(pattern)
    if texts is None:
        raise unsupported(where, "pattern", "its opposite, which `not` or `oneOf` needs, can not be written as a grammar")
    return {"type": "string", "pattern": none_of(texts)}
