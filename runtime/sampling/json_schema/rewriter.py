"""Rewrites a schema into an equivalent one that a grammar compiler does faithfully.

Gone are annotations, `not`, `oneOf`, `if`, dependencies, `propertyNames` and all dialects but draft 2020-12; patterns are in
the engine's own syntax; listed values are checked against the rest beforehand. What is left: `type`, `enum`, `anyOf`, `allOf`,
`$ref`, objects by `properties`, `patternProperties`, `additionalProperties`, `required` and counts, arrays by `prefixItems`,
`items` and counts, strings by length, `pattern` and `format`, numbers by bounds and `multipleOf`.

Invariant: the result accepts exactly the values of the schema; whatever can not be said so raises, with keyword and path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime.errors import Unsupported
from runtime.sampling.json_schema.disjointness import Disjointness
from runtime.sampling.json_schema.document import Document, Schema
from runtime.sampling.json_schema.evaluation import Evaluator
from runtime.sampling.json_schema.formats import backend_format
from runtime.sampling.json_schema.keywords import TYPES, types_in
from runtime.sampling.json_schema.modern import Reader
from runtime.sampling.json_schema.negation import Negator
from runtime.sampling.json_schema.objects import name_constraint, property_counts, some_property
from runtime.sampling.json_schema.patterns import PatternError, translate
from runtime.sampling.json_schema.refusal import step, unsupported

MAX_SCHEMAS = 20_000
MAX_NESTING = 20
COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OBJECT_KEYWORDS = ("properties", "patternProperties", "additionalProperties", "required")


def rewrite(document: Document) -> dict[str, Any]:
    """The equivalent schema. Raises `InvalidRequest` for a malformed schema and `Unsupported` for what has no equivalent."""
    return _Rewriter(document).rewrite()


class _Rewriter:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._reader = Reader(document)
        self._evaluator = Evaluator(self._reader)
        self._negator = Negator(self._reader)
        self._disjointness = Disjointness(self._reader, self._evaluator)
        self._definitions: dict[str, str] = {}
        self._num_schemas = 0

    def rewrite(self) -> dict[str, Any]:
        root = self._schema(self._document.root, "#")
        if root is False:
            raise unsupported("#", "false", "no value satisfies the schema")
        definitions: dict[str, Schema] = {}
        while len(definitions) < len(self._definitions):  # each may need more of them
            pointer = list(self._definitions)[len(definitions)]
            definitions[self._definitions[pointer]] = self._schema(self._reader.follow(pointer, pointer), pointer)
        found = {} if root is True else root
        return found | ({"$defs": definitions} if definitions else {})

    def _schema(self, schema: Schema, path: str) -> Schema:
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS:
            raise unsupported(path, path.rpartition("/")[2], "the schema grows too large when it is written out")
        found = self._reader.read(schema, path)
        if isinstance(found, bool):
            return found
        values = self._values(found, path)
        if values is not None:
            listed = self._listed(found, values, path)
            if listed is not None:
                return listed
        written = dict(self._written(found, path))
        conjuncts = [self._schema(branch, path) for branch in self._conjuncts(found, path)]
        return self._joined(written, [*written.pop("allOf", ()), *conjuncts], path)

    def _values(self, found: dict[str, Any], path: str, depth: int = 0) -> list[Any] | None:
        """All values that the schema may accept, if it lists them, itself or in an `allOf`."""
        if "enum" in found:
            return list(found["enum"])
        for branch in found.get("allOf", ()) if depth < MAX_NESTING else ():
            inner = self._reader.read(branch, step(path, "allOf"))
            values = None if isinstance(inner, bool) else self._values(inner, path, depth + 1)
            if values is not None:
                return values
        return None

    def _listed(self, found: dict[str, Any], values: list[Any], path: str) -> Schema | None:
        """Those that satisfy the whole schema; None if that can not be told beforehand."""
        try:
            accepted = [value for value in values if self._evaluator.accepts(found, value, path)]
        except Unsupported:
            return None
        return {"enum": accepted} if accepted else False

    def _joined(self, written: dict[str, Any], conjuncts: list[Schema], path: str) -> Schema:
        """One schema from keywords and what holds besides."""
        if False in written.values() and any(written.get(keyword) is False for keyword in ("anyOf", "$ref")):
            return False
        conjuncts = [branch for branch in conjuncts if branch is not True]
        if False in conjuncts:
            return False
        if "type" in written and self._says_nothing_new(written):
            del written["type"]
        if not written and len(conjuncts) == 1:
            return conjuncts[0]
        return written | ({"allOf": conjuncts} if conjuncts else {}) or True

    def _says_nothing_new(self, written: dict[str, Any]) -> bool:
        """Whether `type` is the only sibling of references that imply it: recursive ones take no siblings in the backends."""
        if set(written) not in ({"type", "anyOf"}, {"type", "$ref"}):
            return False
        pointers = {f"#/$defs/{name}": pointer for pointer, name in self._definitions.items()}
        branches = written.get("anyOf", [written])
        if not all(isinstance(branch, dict) and branch.get("$ref") in pointers for branch in branches):
            return False
        named = types_in(written)
        allowed = {*named, "integer"} if "number" in named else set(named)
        return all(self._disjointness.types({"$ref": pointers[branch["$ref"]]}, "#") <= allowed for branch in branches)

    # -- keywords that stay --------------------------------------------------------------------------------------------

    def _written(self, found: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        """The keywords that the result has too, rewritten inside."""
        types = types_in(found)
        for keyword, value in found.items():
            where = step(path, keyword)
            if keyword in ("type", "enum", *BOUNDS):
                yield keyword, value
            elif keyword in COUNTS:
                yield keyword, int(value)
            elif keyword == "$ref":
                yield keyword, self._reference(value, path)
            elif keyword == "pattern":
                yield keyword, _pattern(value, path)
            elif keyword == "format" and "string" in types and (name := backend_format(value, path)) is not None:
                yield keyword, name
            elif keyword == "anyOf":
                yield from self._any_of(value, where)
            elif keyword == "allOf":
                yield keyword, [self._schema(branch, step(where, index)) for index, branch in enumerate(value)]
        if "array" in types:
            yield from self._array(found, path)
        if "object" in types:
            yield from self._object(found, path)

    def _reference(self, pointer: str, path: str) -> str:
        self._reader.follow(pointer, path)
        name = self._definitions.setdefault(pointer, f"d{len(self._definitions)}")
        return f"#/$defs/{name}"

    def _any_of(self, branches: list[Schema], where: str) -> Iterator[tuple[str, Any]]:
        written = [self._schema(branch, step(where, index)) for index, branch in enumerate(branches)]
        if True not in written:
            possible = [branch for branch in written if branch is not False]
            yield "anyOf", possible or False

    def _array(self, found: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        if "prefixItems" in found:
            where = step(path, "prefixItems")
            yield "prefixItems", [self._schema(item, step(where, index)) for index, item in enumerate(found["prefixItems"])]
        if "items" in found:
            yield "items", self._schema(found["items"], step(path, "items"))
        if "uniqueItems" in found and found.get("maxItems", 2) > 1:
            raise unsupported(path, "uniqueItems", "a grammar does not remember the items before")
        if "contains" in found:
            raise unsupported(path, "contains", "a grammar does not count the items that fit")
        if found.get("unevaluatedItems", True) is not True:
            raise unsupported(path, "unevaluatedItems", "use items or additionalItems")

    def _object(self, found: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        if found.get("unevaluatedProperties", True) is not True:
            raise unsupported(path, "unevaluatedProperties", "use additionalProperties")
        members = {keyword: found[keyword] for keyword in OBJECT_KEYWORDS if keyword in found}
        if "propertyNames" in found:
            members = name_constraint(members, found["propertyNames"], self._reader, self._evaluator, path)
        for keyword, value in members.items():
            where = step(path, keyword)
            if keyword == "properties":
                yield keyword, {name: self._schema(schema, step(where, name)) for name, schema in value.items()}
            elif keyword == "patternProperties":
                yield (
                    keyword,
                    {
                        _pattern(name, path, "patternProperties"): self._schema(schema, step(where, name))
                        for name, schema in value.items()
                    },
                )
            elif keyword == "additionalProperties":
                yield keyword, self._schema(value, where)
            elif value:
                yield keyword, list(dict.fromkeys(value))
        yield from property_counts(found, path)

    # -- keywords that become others -----------------------------------------------------------------------------------

    def _conjuncts(self, found: dict[str, Any], path: str) -> Iterator[Schema]:
        """Schemas that say what the keywords say which do not stay."""
        if "oneOf" in found:
            yield self._one_of(found["oneOf"], found, step(path, "oneOf"))
        if "not" in found:
            yield self._negator.negate(found["not"], step(path, "not"))
        if "if" in found:
            opposite = self._negator.negate(found["if"], step(path, "if"))
            yield {
                "anyOf": [
                    {"allOf": [found["if"], found.get("then", True)]},
                    {"allOf": [opposite, found.get("else", True)]},
                ]
            }
        if "object" in types_in(found):
            if (some := some_property(found)) is not None:
                yield {"anyOf": [some, {"type": [name for name in TYPES if name != "object"]}]}
            for name, names in found.get("dependentRequired", {}).items():
                yield {"anyOf": [{"properties": {name: False}}, {"required": [name, *names]}]}
            for name, schema in found.get("dependentSchemas", {}).items():
                yield {"anyOf": [{"properties": {name: False}}, {"allOf": [{"required": [name]}, schema]}]}

    def _one_of(self, branches: list[Schema], found: dict[str, Any], where: str) -> Schema:
        """Each branch without what it shares with the others; nothing to do where they are apart."""
        context = {keyword: found[keyword] for keyword in ("type",) if keyword in found and len(types_in(found)) < len(TYPES)}
        apart: list[Schema] = []
        for index, branch in enumerate(branches):
            conjuncts = [branch]
            for other in [*branches[:index], *branches[index + 1 :]]:
                shared = self._disjointness.shared_types(_within(context, branch), _within(context, other), where)
                if shared:
                    conjuncts.append(self._outside(other, shared, where))
            apart.append({"allOf": conjuncts} if len(conjuncts) > 1 else branch)
        return {"anyOf": apart}

    def _outside(self, branch: Schema, shared: frozenset[str], where: str) -> Schema:
        """What is of another type than those, or fails the branch."""
        try:
            opposite = self._negator.negate(branch, where, only=shared)
        except Unsupported as error:
            reason = f"its branches may overlap, and one can not be told from the others ({error})"
            raise unsupported(where, "oneOf", reason) from None
        others = [name for name in TYPES if name not in shared and not (name == "integer" and "number" in shared)]
        return {"anyOf": [*([{"type": others}] if others else []), opposite]}


def _within(context: dict[str, Any], branch: Schema) -> Schema:
    return {"allOf": [context, branch]} if context else branch


def _pattern(pattern: str, path: str, keyword: str = "pattern") -> str:
    try:
        return translate(pattern, is_whole=False)
    except PatternError as error:
        raise unsupported(path, keyword, str(error)) from None
