"""EBNF grammars and structural tags on xgrammar: what they write, an independent recognizer accepts."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from runtime.errors import RequestError
from runtime.params import GrammarSpec
from tests.sampling.ebnf import GRAMMARS, Recognizer
from tests.sampling.judge import Judge

CALL = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}


def test_there_are_thirty() -> None:
    assert len(set(GRAMMARS)) == 30


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_what_is_written_is_in_the_grammar(judge: Judge, grammar: str) -> None:
    compiled, recognizer = judge.compile(GrammarSpec("ebnf", grammar)), Recognizer(grammar)
    texts = [text for seed in range(8) if (text := judge.walk(compiled, Random(seed), max_tokens=200)) is not None]
    assert texts
    for text in texts:
        assert recognizer.accepts(text), text
        assert judge.accepts(compiled, text), text


@pytest.mark.parametrize("text", ["yes", "(1+2)*3", "((x))", "ab", "", "[a,[b]]", "é", "f(1,g())", "day 25", "p&q", "day 26"])
def test_texts_are_judged_as_the_recognizer_does(judge: Judge, text: str) -> None:
    for grammar in GRAMMARS:
        assert judge.accepts(judge.compile(GrammarSpec("ebnf", grammar)), text) == Recognizer(grammar).accepts(text), grammar


BAD = ("root ::= (", 'start ::= "a"', "root ::= missing", "root ::= root", "(" * 30_000, "", "root ::= [z-a]")


@pytest.mark.parametrize("source", BAD)
def test_a_bad_grammar_is_refused(judge: Judge, source: str) -> None:
    with pytest.raises(RequestError) as raised:
        judge.compile(GrammarSpec("ebnf", source))
    assert (raised.value.failure.status, raised.value.failure.param) == (400, "ebnf")


def tag(schema: object) -> str:
    return json.dumps({"structures": [{"begin": "<call>", "schema": schema, "end": "</call>"}], "triggers": ["<call"]})


def test_a_tag_holds_a_call(judge: Judge) -> None:
    format_ = {"type": "tag", "begin": "<|call|>", "content": {"type": "json_schema", "json_schema": CALL}, "end": "<tool>"}
    grammar = judge.compile(GrammarSpec("structural_tag", json.dumps({"type": "structural_tag", "format": format_})))
    for seed in range(6):
        text = judge.walk(grammar, Random(seed))
        if text is not None:
            found = re.fullmatch(r"<\|call\|>(.*)<tool>", text, re.DOTALL)
            assert found
            call = json.loads(found[1])
            assert set(call) == {"city", "days"}
            assert 1 <= call["days"] <= 9
    assert judge.accepts(grammar, '<|call|>{"city":"Bonn","days":3}<tool>')
    assert not judge.accepts(grammar, '<|call|>{"city":"Bonn","days":30}<tool>')


def test_a_special_token_is_a_marker_not_text(judge: Judge) -> None:
    """The one token, where the grammar says so; in a plain grammar only its characters."""
    marker = judge.tokenizer.token_to_id("<|call|>")
    format_ = {"type": "const_string", "value": "<|call|>"}
    in_tag = judge.compile(GrammarSpec("structural_tag", json.dumps({"type": "structural_tag", "format": format_})))
    assert marker in judge.mask(in_tag.open())
    in_plain = judge.compile(GrammarSpec("ebnf", 'root ::= "<|call|>"'))
    assert marker not in judge.mask(in_plain.open())


def test_text_around_calls_is_free(judge: Judge) -> None:
    grammar = judge.compile(GrammarSpec("structural_tag", tag(CALL)))
    assert judge.accepts(grammar, 'well: <call>{"city":"Bonn","days":3}</call> done')
    assert not judge.accepts(grammar, 'well: <call>{"city":"Bonn"}</call> done')


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ("{}", "format"),
        (json.dumps({"structures": [{}], "triggers": []}), "begin"),
        (tag({"type": "integer", "multipleOf": 3}), "multipleOf"),
        (tag({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (tag({"type": 1}), "#/type"),
        (json.dumps({"type": "structural_tag", "format": {"type": "nothing"}}), "structural_tag"),
    ],
)
def test_a_bad_tag_is_refused(judge: Judge, source: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as raised:
        judge.compile(GrammarSpec("structural_tag", source))
    assert raised.value.failure.status == 400


@pytest.mark.parametrize("kind", ["ebnf", "structural_tag"])
def test_llguidance_does_neither(judge: Judge, kind: str) -> None:
    with pytest.raises(RequestError, match="grammar-backend"):
        judge.compile(GrammarSpec(kind, "{}"), "llguidance")  # type: ignore[arg-type]
