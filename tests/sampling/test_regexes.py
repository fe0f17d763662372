"""Regular expressions mean what Python means by them, for the whole text."""

from __future__ import annotations

import re
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import RequestError
from runtime.params import GrammarSpec
from runtime.sampling.grammar_plan import Choice
from runtime.sampling.json_schema.patterns import literal_prefix, literal_texts, none_of
from tests.sampling.judge import Judge
from tests.sampling.regexes import REFUSED, REGEXES

ENDLESS = ("<!--[^>]*-->",)
"""Chance does not find their end."""
EVIL = ("(a+)+" * 20 + "b", "(" * 180 + "a" + ")" * 180, "(a|b)*a(a|b){60}", "(x+x+)+y", "([a-z]*)*" * 30, "(.*)*" * 20)


def test_there_are_a_hundred() -> None:
    assert len(REGEXES) == len(set(REGEXES)) >= 100


@pytest.mark.filterwarnings("ignore:Possible")  # Python's opinion of [[a]
@pytest.mark.parametrize("pattern", REGEXES)
def test_what_is_written_matches(judge: Judge, pattern: str) -> None:
    grammar = judge.compile(GrammarSpec("regex", pattern))
    texts = [judge.walk(grammar, Random(seed), max_tokens=300) for seed in range(6)]
    for text in filter(None, texts):
        assert re.fullmatch(pattern, text), (pattern, text)
    assert any(text is not None for text in texts) or pattern in ENDLESS


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_can_not_be_done_is_refused(judge: Judge, pattern: str) -> None:
    with pytest.raises(RequestError) as raised:
        judge.compile(GrammarSpec("regex", pattern))
    assert (raised.value.failure.status, raised.value.failure.param) == (400, "regex")


@pytest.mark.parametrize("pattern", EVIL)
def test_evil_patterns_are_done_or_refused(judge: Judge, pattern: str) -> None:
    with suppress(RequestError):
        judge.walk(judge.compile(GrammarSpec("regex", pattern)), Random(0), max_tokens=30)


@pytest.mark.parametrize("text", ["2024-02-31", "hello", "", "a\nb", "é", "10", "-1.5e10", "yes", "x@y.com", "#fff", "[a]"])
def test_texts_are_judged_as_python_does(judge: Judge, text: str) -> None:
    for pattern in REGEXES[::4]:
        if "\\s" in pattern.lower() or "\\w" in pattern.lower() or pattern == "[[a]":
            continue  # narrower than Python's outside of ASCII
        grammar = judge.compile(GrammarSpec("regex", pattern))
        assert judge.accepts(grammar, text) == bool(re.fullmatch(pattern, text)), pattern


@pytest.mark.parametrize("letter", "dwsDWS")
def test_a_set_without_a_class_is_within_pythons(judge: Judge, letter: str) -> None:
    pattern = f"[^{chr(92)}{letter}]"
    grammar = judge.compile(GrammarSpec("regex", pattern))
    for char in "a_5 \t\x1c\x85\xa0\xb2\u0660\ua9f0\u0301\u2028é漢Ⅷ-":
        assert not judge.accepts(grammar, char) or re.fullmatch(pattern, char), (pattern, char)
    assert any(judge.accepts(grammar, char) for char in "a5 ")


@pytest.mark.parametrize("pattern", [r"[^\s\S]", r"[^\d\D]", r"a[^\w\W]b"])
def test_a_pattern_for_no_text_is_refused(judge: Judge, pattern: str) -> None:
    with pytest.raises(RequestError, match="allows no text"):
        judge.compile(GrammarSpec("regex", pattern))


def test_xgrammar_does_regexes_too(judge: Judge) -> None:
    choice: Choice = "xgrammar"
    for pattern in ("[a-z]+@[a-z]+\\.com", "\\d{4}-\\d{2}", "(é|ü)+", "a{2,3}|b"):
        grammar = judge.compile(GrammarSpec("regex", pattern), choice)
        for seed in range(3):
            text = judge.walk(grammar, Random(seed))
            assert text is None or re.fullmatch(pattern, text), (pattern, text)
    for pattern in ("\\W", "[^a\\d]", "[^a\\D]", "[^a\\w]", "[^a\\W]", "[^a\\s]", "[^a\\S]"):
        with pytest.raises(RequestError, match="negated"):
            judge.compile(GrammarSpec("regex", pattern), choice)


@given(st.lists(st.text(alphabet="ab.é\n", max_size=4), min_size=1, max_size=4), st.text(alphabet="ab.é\nc", max_size=5))
@settings(max_examples=200, deadline=None)
def test_none_of_is_everything_else(texts: list[str], text: str) -> None:
    assert bool(re.search(none_of(texts), text) and not text.endswith("\n")) == (text not in texts and not text.endswith("\n"))


@pytest.mark.parametrize(
    ("pattern", "texts", "prefix"),
    [
        ("^abc$", ["abc"], "abc"),
        ("^(a|b)$", ["a", "b"], ""),
        ("^a.c$", None, "a"),
        ("^ab?", None, "a"),
        ("^ab+", None, "ab"),
        ("^\\./x", None, "./x"),
        ("^a|b$", None, ""),
        ("abc", None, ""),
    ],
)
def test_literals_are_seen(pattern: str, texts: list[str] | None, prefix: str) -> None:
    assert literal_texts(pattern) == texts
    assert literal_prefix(pattern) == prefix
