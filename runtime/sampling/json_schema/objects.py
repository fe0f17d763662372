"""Objects: names that have to fit a schema, and how many properties there may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.sampling.json_schema.document import Schema
from runtime.sampling.json_schema.evaluation import Evaluator
from runtime.sampling.json_schema.keywords import types_in
from runtime.sampling.json_schema.modern import Reader
from runtime.sampling.json_schema.refusal import unsupported

NAME_KEYWORDS = frozenset({"type", "pattern", "minLength", "maxLength", "enum"})


def name_constraint(members: dict[str, Any], names: Schema, reader: Reader, evaluator: Evaluator, path: str) -> dict[str, Any]:
    """Object keywords that say what `members` and `propertyNames` say together. Raises `Unsupported`.

    Listed properties with a wrong name are forbidden; others get a pattern, or the listed names.
    """
    found = reader.read(names, path)
    if found is True:
        return members
    listed = dict(members.get("properties", {}))
    for name in listed:
        if not evaluator.accepts(names, name, path):
            listed[name] = False
    for name in members.get("required", ()):
        if name not in listed and not evaluator.accepts(names, name, path):
            listed[name] = False
    if found is False or "string" not in types_in(found):
        return members | {"properties": listed, "patternProperties": {}, "additionalProperties": False}
    if members.get("patternProperties") or found.keys() - NAME_KEYWORDS:
        keyword = "patternProperties" if members.get("patternProperties") else "more than pattern, lengths and enum"
        raise unsupported(path, "propertyNames", f"not beside or with {keyword}")
    rest: Schema = members.get("additionalProperties", True)
    members = members | {"properties": listed, "additionalProperties": False}
    if "enum" in found:
        others = [name for name in found["enum"] if isinstance(name, str) and name not in listed]
        members["properties"] |= {name: rest for name in others if evaluator.accepts(names, name, path)}
        return members
    return members | {"patternProperties": {_one_pattern(found, path): rest}}


def _one_pattern(found: dict[str, Any], path: str) -> str:
    """Pattern or length of a name as one pattern."""
    low, high = int(found.get("minLength", 0)), found.get("maxLength")
    if "pattern" not in found:
        return f"^[\\s\\S]{{{low},{'' if high is None else int(high)}}}$"
    if low or high is not None:
        raise unsupported(path, "propertyNames", "not with a pattern and a length")
    return str(found["pattern"])


def some_property(found: dict[str, Any]) -> Schema | None:
    """What `minProperties: 1` says of an object that takes listed properties only; None if it says nothing, or not this."""
    is_listed = found.get("additionalProperties") is False and not found.get("patternProperties")
    if found.get("minProperties") != 1 or found.get("required") or not is_listed or "propertyNames" in found:
        return None
    return {"anyOf": [{"required": [name]} for name in found.get("properties", {})]}


def property_counts(found: dict[str, Any], path: str) -> Iterator[tuple[str, int]]:
    """`minProperties` and `maxProperties`, where they say something. Raises `Unsupported`.

    A grammar of an object with free names can write one name twice, which is one property: it can not count to two.
    """
    required, listed = set(found.get("required", ())), set(found.get("properties", ()))
    low, high = int(found.get("minProperties", 0)), found.get("maxProperties")
    if low > max(1, len(required)):
        raise unsupported(path, "minProperties", "a grammar does not tell repeated names apart")
    is_needed = low > len(required) and some_property(found) is None
    for keyword, says_something in (("minProperties", is_needed), ("maxProperties", high is not None)):
        if says_something and listed - required:
            raise unsupported(path, keyword, "only where all listed properties are required")
        if says_something:
            yield keyword, int(found[keyword])
