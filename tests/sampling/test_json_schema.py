"""JSON schemas, keyword by keyword: what a grammar takes is what the schema says, or it is refused by name and path."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runtime.errors import RequestError
from runtime.sampling.json_schema.document import Document, load
from runtime.sampling.json_schema.rewriter import rewrite
from tests.sampling.judge import Judge

A_NUMBER = {"properties": {"a": {"type": "number"}}, "required": ["a"]}
B_NUMBER = {"properties": {"b": {"type": "number"}}, "required": ["b"]}
A_ONLY = A_NUMBER | {"additionalProperties": False}
DRAFT4, DRAFT7 = ({"$schema": f"http://json-schema.org/draft-0{number}/schema#"} for number in (4, 7))

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [1, "a", None, [], {"x": 1}], []),
    ({"type": "integer"}, [0, -7], [1.5, "1", None, True]),
    ({"type": ["string", "null"]}, ["x", None], [1]),
    ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {}]),
    ({"type": "string", "enum": ["a", 1, None]}, ["a"], [1, None, "b"]),
    ({"enum": [1, 5, 9], "minimum": 3, "not": {"const": 9}}, [5], [1, 9]),
    ({"type": "number", "minimum": 1, "exclusiveMaximum": 3}, [1, 2.5], [0, 3]),
    (DRAFT4 | {"type": "number", "minimum": 1, "exclusiveMinimum": True}, [2, 1.5], [1]),
    ({"type": "integer", "multipleOf": 3}, [9], [10]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "éé"], ["a", "abcd"]),
    ({"type": "string", "pattern": "b+$"}, ["abb"], ["ba"]),
    ({"type": "string", "pattern": "^[a&&b]$"}, ["a", "&", "b"], ["c"]),
    ({"type": "string", "format": "date"}, ["2024-02-29"], ["x"]),
    ({"type": "string", "format": "nobody-knows"}, ["x"], [1]),
    ({"type": "string", "format": "url"}, ["http://a.b/c"], ["x"]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3], ["a"]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False}, [[], [1]], [[1, 2], ["a"]]),
    (DRAFT7 | {"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}}, [[1, 2, 2]], [[1, 1], [2]]),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[1]], [[1, 2]]),
    ({"type": "object", **A_NUMBER}, [{"a": 1}, {"a": 1, "x": "y"}], [{}, {"a": "s"}]),
    ({"type": "object", **A_NUMBER, "additionalProperties": False}, [{"a": 1}], [{"a": 1, "x": 1}]),
    ({"type": "object", "additionalProperties": {"type": "null"}}, [{}, {"q": None}], [{"q": 1}]),
    ({"type": "object", "patternProperties": {"^a": {"type": "null"}}}, [{"ab": None, "b": 1}], [{"ab": 1}]),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, [{"ab": 1}, {}], [{"b": 1}]),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{"a": 1}], [{"c": 1}]),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    ({"type": "object", "propertyNames": False}, [{}], [{"a": 1}]),
    ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
    ({"type": "object", "properties": {"a": {}}, "minProperties": 1, "additionalProperties": False}, [{"a": 1}], [{}]),
    ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
    (DRAFT7 | {"type": "object", "dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, [{"d": 1}], [{"a": 1}, {"c": 1}]),
    ({"allOf": [A_NUMBER, B_NUMBER], "type": "object"}, [{"a": 1, "b": 1}], [{"a": 1}, {"a": 1, "b": "x"}]),
    (
        {"allOf": [A_NUMBER | {"additionalProperties": False}, {"properties": {"b": True}}], "type": "object"},
        [{"a": 1}],
        [{"a": 1, "b": 1}],
    ),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}, [1, "a"], ["ab", None]),
    ({"anyOf": [{"type": "integer"}, True]}, [1, "a"], []),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None]),
    ({"type": "object", "oneOf": [A_NUMBER, B_NUMBER]}, [{"a": 1}, {"b": 1}, {"a": 1, "x": 1}], [{}, {"a": 1, "b": 1}]),
    ({"oneOf": [{"type": "number", "minimum": 2}, {"type": "number", "maximum": 5}]}, [1, 6], [2, 3, 5, "x"]),
    ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, [1, 3], [2]),
    ({"oneOf": [A_NUMBER, B_NUMBER]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}, 1, "x", None]),
    ({"not": {"type": ["string", "number"]}}, [None, True, [], {}], [1, "x"]),
    ({"type": "string", "not": {"enum": ["ab", "b"]}}, ["a", "abc", "c", ""], ["ab", "b"]),
    ({"type": "integer", "not": {"enum": [3, 5]}}, [2, 4, 6], [3, 5]),
    ({"type": "object", "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}]),
    ({"type": "object", "not": {"properties": {"a": {"const": 1}}}}, [{"a": 2}], [{}, {"a": 1}]),
    ({"not": {"not": {"type": "null"}}}, [None], [1]),
    ({"type": "string", "not": {"minLength": 3}}, ["ab"], ["abc"]),
    (
        {"type": "object", "if": A_NUMBER, "then": B_NUMBER, "else": {"required": ["c"]}},
        [{"a": 1, "b": 1}, {"c": 1}],
        [{"a": 1}, {}],
    ),
    ({"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}, [[], [[], [[]]]], [[1]]),
    ({"$ref": "#/$defs/n", "minimum": 3, "$defs": {"n": {"type": "integer"}}}, [3], [2, "x"]),
    (DRAFT7 | {"$ref": "#/definitions/n", "minimum": 3, "definitions": {"n": {"type": "integer"}}}, [2], ["x"]),
    ({"$ref": "#here", "$defs": {"n": {"$anchor": "here", "type": "null"}}}, [None], [1]),
    ({"$ref": "n.json", "$id": "http://x.y/root", "$defs": {"n": {"$id": "n.json", "type": "null"}}}, [None], [1]),
]

REFUSED: list[tuple[Any, str]] = [
    (False, "no value"),
    ({"enum": []}, "no value"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems' at #"),
    ({"properties": {"x/y": {"type": "array", "contains": {}, "minContains": 2}}}, "'contains' at #/properties/x~1y"),
    ({"type": "object", "unevaluatedProperties": False}, "'unevaluatedProperties' at #"),
    ({"type": "string", "pattern": "(?=a)"}, "'pattern' at #"),
    ({"type": "string", "pattern": "\\bx"}, "'pattern' at #"),
    ({"type": "string", "format": "json-pointer"}, "'format' at #"),
    ({"type": "object", "minProperties": 2}, "'minProperties' at #"),
    ({"not": {"type": "integer"}}, "'type' at #/not/type"),
    ({"type": "string", "not": {"pattern": "a+"}}, "'pattern' at #/not/pattern"),
    ({"oneOf": [{"pattern": "a+"}, {"pattern": "b+"}]}, "'oneOf' at #/oneOf"),
    ({"$ref": "http://elsewhere/x"}, r"'\$ref' at #"),
    ({"$dynamicRef": "#x"}, "'\\$dynamicRef'"),
    ({"$ref": "#/nowhere"}, "not there"),
    ({"type": 1}, "#/type of the JSON schema"),
    ({"required": ["a", 1]}, "#/required"),
    ({"properties": []}, "#/properties"),
    ({"minLength": -1}, "#/minLength"),
    ({"exclusiveMinimum": True}, "#/exclusiveMinimum"),
    ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft 3"),
]


def name(case: Any) -> str:
    return json.dumps(case)[:60]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES, ids=name)
def test_a_keyword_means_what_it_says(judge: Judge, schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    grammar = judge.json_schema(schema)
    for value in valid:
        assert judge.accepts_value(grammar, value) == {True}, value
    for value in invalid:
        assert judge.accepts_value(grammar, value) == {False}, value


@pytest.mark.parametrize(("schema", "problem"), REFUSED, ids=name)
def test_what_can_not_be_done_is_refused_by_name(judge: Judge, schema: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as raised:
        judge.json_schema(schema)
    assert (raised.value.failure.status, raised.value.failure.param) == (400, "json_schema")


def test_a_schema_that_never_ends_allows_no_text(judge: Judge) -> None:
    with pytest.raises(RequestError, match="allows no text"):
        judge.json_schema({"$ref": "#"})


@pytest.mark.parametrize(
    "source", ["", "{", "[]", "1", '{"minimum": NaN}', '{"const": 1e999}', "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70]
)
def test_what_is_not_a_schema_is_refused(source: str) -> None:
    with pytest.raises(RequestError) as raised:
        rewrite(load(source))
    assert raised.value.failure.status == 400


@pytest.mark.parametrize(
    "text", ['{"\\u0061": "x"}', '{"a": "x"}', '{"b": 1, "a": "x"}', '{ "a": 1}', '{"a" : 1}', '{"a":  1}']
)
def test_no_spelling_gets_past_a_schema(judge: Judge, text: str) -> None:
    assert not judge.accepts(judge.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}), text)


SCALARS = st.sampled_from([None, True, 0, 1, 2.5, "", "a", "ab"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=4
)
LEAVES = st.sampled_from(
    [
        *({"type": kind} for kind in ("null", "boolean", "number", "string", "array", "object")),
        {"enum": ["a", 1]},
        {"enum": [None, True]},
        {"minimum": 1},
        {"maxLength": 1},
        {"minItems": 1},
        {"required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "null"}}},
        {"properties": {"b": False}},
        True,
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda keyword, schemas: {keyword: schemas},
            st.sampled_from(("allOf", "anyOf", "oneOf")),
            st.lists(inner, min_size=1, max_size=3),
        ),
        st.builds(lambda schema: {"not": schema}, inner),
        st.builds(lambda one, two, three: {"if": one, "then": two, "else": three}, inner, inner, inner),
        st.builds(lambda schema: {"properties": {"a": schema}}, inner),
    ),
    max_leaves=5,
)


@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_the_rewritten_schema_is_equivalent(schema: Any, values: list[Any]) -> None:
    """As a validator sees both: the rewriting alone, without a grammar."""
    try:
        written: Any = rewrite(Document(schema))
    except RequestError as error:
        written = False if "no value" in str(error) else None
    if written is not None:
        before, after = Draft202012Validator(schema), Draft202012Validator(written)
        for value in values:
            assert before.is_valid(value) == after.is_valid(value), (written, value)


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_valid(judge: Judge, schema: Any, seed: int) -> None:
    try:
        grammar = judge.json_schema(schema)
    except RequestError:
        return
    text = judge.walk(grammar, Random(seed), max_tokens=120)
    if text is not None:
        assert Draft202012Validator(schema).is_valid(json.loads(text)), text
