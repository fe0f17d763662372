"""Whether two schemas have no value in common, as far as it can be seen; `oneOf` of such branches is `anyOf`.

Sound, not complete: True is a proof, False is not.
"""

from __future__ import annotations

import math
import re
from typing import Any

from runtime.errors import RequestError
from runtime.sampling.json_schema.document import Schema
from runtime.sampling.json_schema.evaluation import Evaluator, equal, member_schemas
from runtime.sampling.json_schema.keywords import TYPES, types_in
from runtime.sampling.json_schema.modern import Reader
from runtime.sampling.json_schema.patterns import literal_prefix, literal_texts
from runtime.sampling.json_schema.refusal import step

MAX_NESTING = 12


class Disjointness:
    """Proofs about the schemas of one document."""

    def __init__(self, reader: Reader, evaluator: Evaluator) -> None:
        self._reader = reader
        self._evaluator = evaluator

    def types(self, schema: Schema, path: str, depth: int = 0) -> frozenset[str]:
        """At least the types that values of `schema` can have; `number` is there for every `integer`."""
        found = self._reader.read(schema, path)
        if isinstance(found, bool):
            return frozenset(TYPES) if found else frozenset()
        types = _widened(types_in(found))
        if depth > MAX_NESTING:
            return types
        if "$ref" in found:
            types &= self.types(self._reader.follow(found["$ref"], path), found["$ref"], depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in found:
                branches = [self.types(branch, step(path, keyword), depth + 1) for branch in found[keyword]]
                types &= frozenset().union(*branches)
        for branch in found.get("allOf", ()):
            types &= self.types(branch, step(path, "allOf"), depth + 1)
        return types

    def is_proven(self, one: Schema, other: Schema, path: str, depth: int = 0) -> bool:
        """Raises `RequestError` if one of them is malformed."""
        if depth > MAX_NESTING:
            return False
        common = self.types(one, path) & self.types(other, path)
        if not common:
            return True
        parts, other_parts = self._parts(one, path), self._parts(other, path)
        return any(
            self._are_apart(part, other_part, path, common, depth) for part in parts for other_part in other_parts
        ) or any(
            self._branches_apart(side, parts_of_it, path, depth) for side, parts_of_it in ((other, parts), (one, other_parts))
        )

    def shared_types(self, one: Schema, other: Schema, path: str) -> frozenset[str]:
        """Types of values that may satisfy both; `number` stands for integers too."""
        if self.is_proven(one, other, path):
            return frozenset()
        common = self.types(one, path) & self.types(other, path)
        names = {"number" if name == "integer" else name for name in common}

        def is_shared(name: str) -> bool:
            return not self.is_proven({"allOf": [{"type": name}, one]}, {"allOf": [{"type": name}, other]}, path)

        return frozenset(filter(is_shared, names))

    def _branches_apart(self, schema: Schema, parts: list[dict[str, Any]], path: str, depth: int) -> bool:
        """Whether some alternative in `parts` has only branches that are apart from `schema`."""
        return any(
            keyword in part and all(self.is_proven(branch, schema, path, depth + 1) for branch in part[keyword])
            for part in parts
            for keyword in ("anyOf", "oneOf")
        )

    def _parts(self, schema: Schema, path: str, depth: int = 0) -> list[dict[str, Any]]:
        """Schemas that all hold for each value of `schema`: itself, what it refers to and its `allOf`."""
        found = self._reader.read(schema, path)
        if isinstance(found, bool) or depth > MAX_NESTING:
            return [] if isinstance(found, bool) else [found]
        parts = [found]
        if "$ref" in found:
            parts += self._parts(self._reader.follow(found["$ref"], path), found["$ref"], depth + 1)
        for branch in found.get("allOf", ()):
            parts += self._parts(branch, path, depth + 1)
        return parts

    def _are_apart(self, one: dict[str, Any], other: dict[str, Any], path: str, common: frozenset[str], depth: int) -> bool:
        if self._values_apart(one, other, path) or self._values_apart(other, one, path):
            return True
        if common == {"object"}:
            return self._objects_apart(one, other, path, depth) or self._objects_apart(other, one, path, depth)
        if common == {"string"}:
            return _texts_apart(one, other)
        return False

    def _values_apart(self, one: dict[str, Any], other: dict[str, Any], path: str) -> bool:
        """Whether `one` lists its values, or has one text only, and `other` takes none of them."""
        values = one.get("enum")
        if values is None:
            values = literal_texts(one.get("pattern", ""))
            if values is None or types_in(one) != ("string",):
                return False
        listed = other.get("enum")
        if listed is not None and not any(equal(value, theirs) for value in values for theirs in listed):
            return True
        try:
            return not any(self._evaluator.accepts(other, value, path) for value in values)
        except RequestError:
            return False

    def _objects_apart(self, one: dict[str, Any], other: dict[str, Any], path: str, depth: int) -> bool:
        """Whether `one` requires a property that `other` forbids, or gives a value that is apart."""
        for name in one.get("required", ()):
            mine = one.get("properties", {}).get(name, True)
            for schema, where in _schemas_of(other, name, path):
                if schema is False or self.is_proven(mine, schema, where, depth + 1):
                    return True
        return False


def _texts_apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether lengths exclude each other, or the beginnings of the patterns."""
    if max(one.get("minLength", 0), other.get("minLength", 0)) > min(
        one.get("maxLength", math.inf), other.get("maxLength", math.inf)
    ):
        return True
    mine, theirs = literal_prefix(one.get("pattern", "")), literal_prefix(other.get("pattern", ""))
    return not (mine.startswith(theirs) or theirs.startswith(mine))


def _schemas_of(found: dict[str, Any], name: str, path: str) -> list[tuple[Schema, str]]:
    """What a schema says of property `name`; nothing if a pattern of it can not be tried."""
    try:
        return member_schemas(found, name, path, lambda pattern: re.search(pattern, name) is not None)
    except (re.error, OverflowError, RecursionError):
        return []


def _widened(types: tuple[str, ...]) -> frozenset[str]:
    return frozenset(types) | ({"integer"} if "number" in types else set())
