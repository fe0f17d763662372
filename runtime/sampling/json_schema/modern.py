"""Every draft read as draft 2020-12, so that the rest has one dialect: fewer keywords, each with one meaning."""

from __future__ import annotations

from typing import Any

from runtime.sampling.json_schema.document import Document, Schema
from runtime.sampling.json_schema.keywords import assertions
from runtime.sampling.json_schema.refusal import malformed, step, unsupported


class Reader:
    """What the schemas of one document assert.

    `read` leaves these out: `const` (an enum of one), `dependencies` (now dependentRequired and dependentSchemas), lists in
    `items` (prefixItems), `additionalItems`, boolean `exclusiveMinimum` and `exclusiveMaximum`, `then` and `else` without
    `if`, `contains` that asks for nothing, and siblings of `$ref` up to draft 7.
    """

    def __init__(self, document: Document) -> None:
        self.document = document

    def read(self, schema: Schema, path: str) -> dict[str, Any] | bool:
        """Raises `InvalidRequest` for a malformed keyword, `Unsupported` for one that only running it could explain."""
        if isinstance(schema, bool):
            return schema
        if self.document.draft <= 7 and isinstance(schema.get("$ref"), str):
            schema = {"$ref": schema["$ref"]}
        found = assertions(schema, path)
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in found:
                raise unsupported(path, keyword, "its target depends on who refers to the schema")
        self._read_values(found)
        self._read_bounds(found, path)
        self._read_items(found, path)
        self._read_object(found)
        self._read_conditions(found)
        return found or True

    def follow(self, ref: str, path: str) -> Schema:
        return self.document.resolve(ref, path)

    def _read_values(self, found: dict[str, Any]) -> None:
        if "const" in found:
            constant = found.pop("const")
            if self.document.draft > 4:
                _conjoin(found, "enum", [constant])

    def _read_bounds(self, found: dict[str, Any], path: str) -> None:
        """Up to draft 4 `exclusiveMinimum: true` makes `minimum` exclusive."""
        for keyword, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            value = found.get(keyword)
            if not isinstance(value, bool):
                continue
            if self.document.draft > 4 and value:
                raise malformed(step(path, keyword), "must be a number since draft 6")
            del found[keyword]
            if value and limit in found:
                found[keyword] = found.pop(limit)

    def _read_items(self, found: dict[str, Any], path: str) -> None:
        """Lists are accepted in `items` in every draft, as validators and generators do."""
        rest = found.pop("additionalItems", None)
        if isinstance(found.get("items"), list):
            if "prefixItems" in found:
                raise malformed(step(path, "items"), "must be a schema beside prefixItems")
            found["prefixItems"] = found.pop("items")
            if rest is not None:
                found["items"] = rest
        if found.get("uniqueItems") is False:
            del found["uniqueItems"]
        if "contains" not in found or (found.get("minContains") == 0 and "maxContains" not in found):
            for keyword in ("contains", "minContains", "maxContains"):
                found.pop(keyword, None)

    def _read_object(self, found: dict[str, Any]) -> None:
        if isinstance(found.get("required"), bool):  # from before draft 4: on the property, not on the object
            del found["required"]
        for name, dependency in found.pop("dependencies", {}).items():
            kind = "dependentRequired" if isinstance(dependency, list) else "dependentSchemas"
            found.setdefault(kind, {})
            found[kind] = found[kind] | {name: dependency}

    def _read_conditions(self, found: dict[str, Any]) -> None:
        if "if" not in found or not ("then" in found or "else" in found) or self.document.draft < 7:
            for keyword in ("if", "then", "else"):
                found.pop(keyword, None)


def _conjoin(found: dict[str, Any], keyword: str, value: Any) -> None:
    """Add an assertion that may be there already."""
    if keyword in found:
        found["allOf"] = [*found.get("allOf", ()), {keyword: value}]
    else:
        found[keyword] = value
