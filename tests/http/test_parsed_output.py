"""Rows as detokenizers make them, put together from pieces: texts, calls, and tokens that were thought."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.http.parsed_output import ParsedOutput
from runtime.messages import Finish, TextRow
from runtime.output_plan import OutputWish
from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece
from runtime.text.output_parsing import OutputParsing

TOOLS = ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}})
TEXT = (
    "<think>\nHm, né 🎭.\n</think>\n\nLook: "
    '<tool_call>\n{"name": "f", "arguments": {"a": [1, "</tool_call>"]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)


def row(text: str, num_tokens: int = 1, finish: Finish | None = None) -> TextRow:
    return TextRow(
        request_id=1,
        text=text,
        token_ids=tuple(range(num_tokens)),
        num_completion_tokens=0,
        num_prompt_tokens=0,
        num_cached_tokens=0,
        finish=finish,
    )


def output(max_calls: int | None = None) -> ParsedOutput:
    plan = OutputParsing("qwen25", "qwen3").plan(OutputWish(tools=TOOLS))
    assert plan.make_parser is not None
    names = itertools.count()
    return ParsedOutput(plan.make_parser(), lambda: f"id-{next(names)}", max_calls)


def feed(parsed: ParsedOutput, parts: list[str]) -> list[Piece]:
    pieces = [piece for part in parts for piece in parsed.feed(row(part))]
    return pieces + parsed.feed(row("", 0, Finish("stop", matched=2)))


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(TEXT)]
    parts = [TEXT[start:end] for start, end in itertools.pairwise(places)]
    parsed = output()
    pieces = feed(parsed, parts)
    assert parsed.reasoning.strip() == "Hm, né 🎭."
    assert parsed.text.strip() == "Look:"
    assert [(call.id, call.name, call.arguments) for call in parsed.calls] == [
        ("id-0", "f", '{"a": [1, "</tool_call>"]}'),
        ("id-1", "g", "{}"),
    ]
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)) == parsed.text
    assert "".join(piece.text for piece in pieces if isinstance(piece, ReasoningPiece)) == parsed.reasoning
    begins = [piece for piece in pieces if isinstance(piece, CallBegin)]
    assert [piece.id for piece in begins] == ["id-0", "id-1"]


def test_calls_beyond_the_limit_are_dropped() -> None:
    parsed = output(max_calls=1)
    pieces = feed(parsed, [TEXT])
    assert [call.name for call in parsed.calls] == ["f"]
    assert {piece.index for piece in pieces if isinstance(piece, CallBegin | CallArguments)} == {0}


@pytest.mark.parametrize(
    ("parts", "num_reasoning_tokens"),
    [
        (["<think>", "a", "b", "</think>", "c", "d"], 4),
        (["<think>", "a", "b"], 4),
        (["a", "b"], 0),
        (["<think>", "a", "b</think>c", "d"], 2),
        (["<think>a</think>c"], 0),
    ],
)
def test_tokens_that_were_thought(parts: list[str], num_reasoning_tokens: int) -> None:
    parsed = output()
    for part in parts[:-1]:
        parsed.feed(row(part))
    parsed.feed(row(parts[-1], 1 if "</think>" in "".join(parts) else 2, Finish("length", length=9)))
    assert parsed.num_reasoning_tokens == num_reasoning_tokens


def test_without_a_parser_all_is_text() -> None:
    parsed = ParsedOutput(None, lambda: "")
    assert feed(parsed, [TEXT[:20], "", TEXT[20:]]) == [TextPiece(TEXT[:20]), TextPiece(TEXT[20:])]
    assert (parsed.text, parsed.reasoning, parsed.calls, parsed.num_reasoning_tokens) == (TEXT, "", [], 0)
