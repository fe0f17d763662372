"""Every tool-call parser: what it finds, that cuts do not matter, that nothing is lost, and that time is linear."""

from __future__ import annotations

import json
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import extensions
from runtime.pieces import CallArguments, CallBegin, Piece, TextPiece
from runtime.text.parsing.cursor import StreamParser, joined
from runtime.text.parsing.formats import TOOL_CALLS, call_format
from runtime.text.parsing.tools import Tools, tool_of
from tests.text.parsing.samples import TOOL_CALLS as SAMPLES
from tests.text.parsing.samples import TOOLS, Sample

NAMES = extensions.names(TOOL_CALLS)
EACH_SAMPLE = [pytest.param(name, sample, id=f"{name}-{index}") for name in NAMES for index, sample in enumerate(SAMPLES[name])]

MARKUP = (
    *(
        output[begin:end]
        for name in NAMES
        for output in [SAMPLES[name][0].output]
        for begin, end in ((0, 40), (20, 90), (-60, None))
    ),
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        "<|tool_call_begin|>",
        "now",
        "[now(",
    ),
    *(
        "<|channel|>commentary to=functions.now<|message|>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        '{"name": "now", "arguments": ',
    ),
    *(
        '{"name": "unknown", "arguments": {}}',
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        "\\u12",
        "'",
        '"""',
        ";",
        ",",
        ":",
        "(",
        ")",
        "a=",
        "<",
        "|",
    ),
    *("\n", " ", "\u2028", "🎭", "é", "\x00", "-1", "1e5", "nul", "null", "true", "```json", "```", "</arg_value>", "city"),
)


def parser_of(name: str) -> StreamParser:
    tools = Tools([tool_of(tool) for tool in TOOLS])
    return StreamParser(lambda cursor: call_format(name).read(cursor, tools))


def parse(name: str, *parts: str) -> list[Piece]:
    parser = parser_of(name)
    pieces = list(chain.from_iterable(parser.feed(part) for part in parts))
    return joined(pieces + parser.close())


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


def calls_of(pieces: list[Piece]) -> list[tuple[str, str]]:
    begins = [piece for piece in pieces if isinstance(piece, CallBegin)]
    assert [begin.index for begin in begins] == list(range(len(begins)))
    arguments = [piece for piece in pieces if isinstance(piece, CallArguments)]
    return [(begin.name, "".join(piece.text for piece in arguments if piece.index == begin.index)) for begin in begins]


@pytest.mark.parametrize(("name", "sample"), EACH_SAMPLE)
def test_finds_text_and_calls(name: str, sample: Sample) -> None:
    pieces = parse(name, sample.output)
    assert text_of(pieces) == sample.text
    assert tuple((called, json.loads(arguments)) for called, arguments in calls_of(pieces)) == sample.calls


@pytest.mark.parametrize(("name", "sample"), EACH_SAMPLE)
def test_any_cut_gives_the_same(name: str, sample: Sample) -> None:
    output = sample.output
    whole = parse(name, output)
    assert parse(name, *output) == whole
    for cut in range(0, len(output), 3):
        assert parse(name, output[:cut], output[cut:]) == whole


@pytest.mark.parametrize(("name", "sample"), EACH_SAMPLE)
def test_arguments_come_as_they_are_written(name: str, sample: Sample) -> None:
    """At each moment what came out is at most a marker behind what went in."""
    parser = parser_of(name)
    value = next(iter(sample.calls))[1].get("city", "")
    for character in sample.output:
        pieces = parser.feed(character)
        assert sum(len(piece.text) for piece in pieces if not isinstance(piece, CallBegin)) < 64
    assert value in json.loads(calls_of(parse(name, sample.output))[0][1]).get("city", "")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(
    parts=st.lists(st.sampled_from(MARKUP) | st.text(max_size=4), max_size=14), cuts=st.lists(st.integers(0, 400), max_size=6)
)
def test_adversarial_texts_are_cut_safe_and_nothing_is_lost(name: str, parts: list[str], cuts: list[int]) -> None:
    output = "".join(parts)
    whole = parse(name, output)
    places = sorted({0, *(cut for cut in cuts if cut < len(output)), len(output)})
    assert parse(name, *(output[begin:end] for begin, end in pairwise(places))) == whole
    calls = calls_of(whole)
    assert all(called in ("get_weather", "now") for called, _ in calls)
    if not calls:
        assert text_of(whole) == output
    remaining = iter(output)
    assert all(character in remaining for character in text_of(whole)), "text comes out in order, and none is made up"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(data=st.data())
def test_a_damaged_call_hides_nothing_that_follows(name: str, data: st.DataObject) -> None:
    """Cut a sample anywhere and go on with plain text: the text comes out, as text or inside the arguments it was cut in."""
    sample = data.draw(st.sampled_from(SAMPLES[name]))
    cut = data.draw(st.integers(0, len(sample.output)))
    pieces = parse(name, sample.output[:cut] + "\x01MARK")
    assert "MARK" in text_of(pieces) + "".join(arguments for _, arguments in calls_of(pieces))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_tools_are_text(name: str) -> None:
    for sample in SAMPLES[name]:
        output = sample.output.replace("get_weather", "get_whether").replace("now", "then")
        pieces = parse(name, output)
        assert calls_of(pieces) == []
        assert text_of(pieces) == output


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", ["<", "[", "{", '{"name": ', "\n", "<tool_call>", "[TOOL_CALLS] [", "<|", "now(", "[now(a="])
def test_each_character_is_read_once(name: str, unit: str) -> None:
    """Counted, not timed: what the cursor copies grows with the text, however it is cut."""
    num_held = []
    parser = parser_of(name)
    for character in unit * 700:
        parser.feed(character)
        num_held.append(len(parser._cursor.text) - parser._cursor.position)
    assert max(num_held) < 600, "a held-back text that grows is copied at each feed"
    assert text_of(parse(name, unit * 700)).strip() or calls_of(parse(name, unit * 700)) or not unit.strip()


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("qwen25", '<tool_call>{"name": "now", "arguments": {"a": tru}}</tool_call>'),
        ("qwen25", '<tool_call>{"name": "now", "arguments": {"a": "line\nend"}}</tool_call>'),
        ("llama3", '{"name": "now", "parameters": {"a": 01}}'),
        ("pythonic", "[now(a=f(1))]"),
        ("pythonic", "[now(a=1, a=2)]"),
        ("qwen3-coder", "<function=now><parameter=a>1</parameter><parameter=a>2</parameter></function>"),
    ],
)
def test_what_breaks_inside_the_arguments_comes_out_as_text(name: str, output: str) -> None:
    pieces = parse(name, output)
    ((called, arguments),) = calls_of(pieces)
    assert called == "now"
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)
    assert text_of(pieces)
    assert output.endswith(text_of(pieces))


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("0x1F", 31),
        ("1_000", 1000),
        (".5", 0.5),
        ("-1e3", -1000.0),
        ("'it\\'s\\x41\\u00e9\\q'", "it'sAé\\q"),
        ('"""a "b" \n c"""', 'a "b" \n c'),
        ("''", ""),
        ("[True, None, [],]", [True, None, []]),
        ("{'a': {}, \"b\": [1]}", {"a": {}, "b": [1]}),
    ],
)
def test_python_literals(literal: str, value: object) -> None:
    output = f"[now(a={literal}, b=1)]"
    assert [json.loads(arguments) for _, arguments in calls_of(parse("pythonic", output))] == [{"a": value, "b": 1}]
    assert parse("pythonic", *output) == parse("pythonic", output)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(value=LITERALS, cuts=st.lists(st.integers(0, 200), max_size=6), damage=st.none() | st.integers(0, 200))
def test_any_python_literal(value: object, cuts: list[int], damage: int | None) -> None:
    """Plain values are read in runs; how they are cut, or what is damaged behind them, changes nothing."""
    output = f"[now(a={value!r})]"
    if damage is None:
        assert [json.loads(arguments) for _, arguments in calls_of(parse("pythonic", output))] == [{"a": value}]
    else:
        output = output[: damage % len(output)] + "@" + output[damage % len(output) + 1 :]
    places = sorted({0, *(cut for cut in cuts if cut < len(output)), len(output)})
    assert parse("pythonic", *(output[begin:end] for begin, end in pairwise(places))) == parse("pythonic", *output)


@pytest.mark.parametrize("literal", ["inf", "1j", "__import__('os')", "x", "(1, 2)", "'\\ud800'", "{1: 2}", "a.b", "1__0"])
def test_other_expressions_are_not_arguments(literal: str) -> None:
    pieces = parse("pythonic", f"[now(a={literal})]")
    assert calls_of(pieces) == [("now", '{"a": ' + ('"' if literal[0] == "'" else "{" if literal[0] == "{" else ""))]


def test_plain_arguments_follow_the_schema() -> None:
    def value(city: str, days: str) -> object:
        output = (
            f"<tool_call>get_weather<arg_key>city</arg_key><arg_value>{city}</arg_value>"
            f"<arg_key>days</arg_key><arg_value>{days}</arg_value></tool_call>"
        )
        return json.loads(calls_of(parse("glm45", output))[0][1])

    assert value("true", " 3 ") == {"city": "true", "days": 3}
    assert value("", "three") == {"city": "", "days": "three"}
    assert value("{", "True") == {"city": "{", "days": True}
