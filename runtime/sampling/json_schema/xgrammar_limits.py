"""What xgrammar does of a rewritten schema; it passes over the rest in silence, so the rest is refused.

Found by running each keyword, alone and in pairs, against instances: `anyOf`, `allOf`, `enum` and `$ref` hide their siblings,
`allOf` keeps one of its branches, a pattern hides lengths and has to match the whole text, strings of bounded length take bare
control characters, which JSON does not, and an escaped name of a listed property passes for a free one.

Structural tags, which only xgrammar does, may be narrower than their schemas: an object there that lists properties takes no
others, and a string of bounded length has no escapes. What they accept is valid all the same.
"""

from __future__ import annotations

from typing import Any

from runtime.sampling.json_schema.document import Schema
from runtime.sampling.json_schema.keywords import types_in
from runtime.sampling.json_schema.patterns import PatternError, translate
from runtime.sampling.json_schema.refusal import step, unsupported

ALONE = ("anyOf", "$ref", "enum", "allOf")
NEVER = ("multipleOf", "minProperties", "maxProperties", "patternProperties")
STRING_RULES = ("pattern", "format", "minLength", "maxLength")
UNTYPED = ("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", *STRING_RULES)
PLAIN_CHARS = r"[ !#-\[\]-\u{10ffff}]"
PLAIN_ESCAPES = frozenset("dws.-/()[]{}+*?|^$\\")


def check(schema: Schema, path: str = "#", *, is_exact: bool = True) -> None:
    """Raises `Unsupported` with the keyword that xgrammar would weaken, or narrow if `is_exact`.

    `schema` is what `rewrite` returned.
    """
    if isinstance(schema, bool):
        return
    found = {keyword: value for keyword, value in schema.items() if keyword != "$defs"}
    _check_combinations(found, path)
    _check_strings(found, path, is_exact)
    if is_exact:
        _check_width(found, path)
    for where, inner in _inside(schema, path):
        check(inner, where, is_exact=is_exact)


def narrowed(schema: Schema) -> Schema:
    """A schema that was checked, without free properties in objects that list some, and with patterns for lengths."""
    if isinstance(schema, bool):
        return schema
    written: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs"):
            written[keyword] = {name: narrowed(inner) for name, inner in value.items() if inner is not False}
        elif keyword in ("anyOf", "allOf", "prefixItems"):
            written[keyword] = [narrowed(inner) for inner in value]
        else:
            written[keyword] = narrowed(value) if keyword in ("items", "additionalProperties") else value
    if written.get("properties"):
        unlisted = [name for name in written.get("required", ()) if name not in schema["properties"]]
        rest = written.get("additionalProperties", True)
        written["properties"] |= dict.fromkeys(unlisted, rest)
        written["additionalProperties"] = False
    if "minLength" in written or "maxLength" in written:
        low, high = written.pop("minLength", 0), written.pop("maxLength", "")
        written["pattern"] = f"^{PLAIN_CHARS}{{{low},{high}}}$"
    return written


def _check_combinations(found: dict[str, Any], path: str) -> None:
    for keyword in NEVER:
        if keyword in found:
            raise unsupported(path, keyword, "xgrammar does not keep it")
    for keyword in ALONE:
        if keyword in found and len(found) > 1:
            raise unsupported(path, keyword, "xgrammar does not keep what stands beside it")
    if len(found.get("allOf", ())) > 1:
        raise unsupported(path, "allOf", "xgrammar keeps one of the schemas only")
    for name in found.get("required", ()):
        if found.get("properties", {}).get(name) is False:
            raise unsupported(step(path, "properties", name), "false", "xgrammar has no forbidden properties")


def _check_strings(found: dict[str, Any], path: str, is_exact: bool) -> None:
    rules = [keyword for keyword in STRING_RULES if keyword in found]
    if len(rules) > 1 and rules != ["minLength", "maxLength"]:
        raise unsupported(path, rules[0], "xgrammar keeps one rule of a string")
    if rules and types_in(found) != ("string",):
        raise unsupported(path, rules[0], "xgrammar keeps it only where the type is string alone")
    pattern = found.get("pattern", "^$")
    escapes = {pattern[at + 1 : at + 2] for at, char in enumerate(pattern) if char == "\\"}
    try:
        translate(pattern, is_whole=True)
        is_plain = escapes <= PLAIN_ESCAPES and pattern.isascii()
    except PatternError:
        is_plain = False
    if is_exact and (pattern[:1] != "^" or pattern[-1:] != "$" or "|" in pattern):
        is_plain = False
    if not is_plain:
        raise unsupported(path, "pattern", "xgrammar reads it in another way")


def _check_width(found: dict[str, Any], path: str) -> None:
    """What makes a grammar of xgrammar narrower than the schema, or lets an escaped name through."""
    for keyword in UNTYPED:
        if keyword in found and "type" not in found:
            raise unsupported(path, keyword, "xgrammar takes it for a type, so one has to be given")
    properties = found.get("properties", {})
    if False in properties.values():
        raise unsupported(path, "properties", "xgrammar has no forbidden properties")
    if properties and found.get("additionalProperties", True) is not False:
        raise unsupported(path, "additionalProperties", "xgrammar needs it to be false beside properties")
    if set(found.get("required", ())) - properties.keys():
        raise unsupported(path, "required", "xgrammar keeps only names that are listed in properties")
    for keyword in ("minLength", "maxLength"):
        if keyword in found:
            raise unsupported(path, keyword, "xgrammar lets control characters into such strings")
    if any(isinstance(value, list | dict) for value in found.get("enum", ())):
        raise unsupported(path, "enum", "xgrammar has one spelling for arrays and objects in it")


def _inside(schema: dict[str, Any], path: str) -> list[tuple[str, Schema]]:
    named = [
        (step(path, keyword, name), inner)
        for keyword in ("properties", "$defs")
        for name, inner in schema.get(keyword, {}).items()
    ]
    single = [(step(path, keyword), schema[keyword]) for keyword in ("additionalProperties", "items") if keyword in schema]
    listed = [
        (step(path, keyword, index), inner)
        for keyword in ("prefixItems", "anyOf", "allOf")
        for index, inner in enumerate(schema.get(keyword, ()))
    ]
    return named + single + listed
