"""Every reasoning parser: what it separates, and that cuts do not matter."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import extensions
from runtime.pieces import Piece, ReasoningPiece, TextPiece
from runtime.text.parsing.cursor import StreamParser, joined
from runtime.text.parsing.formats import REASONING, reasoning_format
from tests.text.parsing.samples import REASONING as SAMPLES

NAMES = extensions.names(REASONING)
EACH_SAMPLE = [(name, *sample) for name in NAMES for sample in SAMPLES[name]]
MARKUP = (
    *("<think>", "</think>", "◁think▷", "◁/think▷", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|end|>"),
    *("<|start|>assistant", "<|channel|>commentary to=functions.f<|message|>", " to=", "<|call|>", "<|return|>", "<|message|>"),
    *("<", "</", "<|", "◁", "\n", " ", "a", "b\n"),
)


def parse(name: str, *parts: str, starts_inside: bool | None = None) -> list[Piece]:
    parser = StreamParser(lambda cursor: reasoning_format(name).read(cursor, starts_inside))
    pieces = list(chain.from_iterable(parser.feed(part) for part in parts))
    return joined(pieces + parser.close())


def separated(pieces: list[Piece]) -> tuple[str, str]:
    return tuple(  # type: ignore[return-value]
        "".join(piece.text for piece in pieces if isinstance(piece, kind)) for kind in (ReasoningPiece, TextPiece)
    )


@pytest.mark.parametrize(("name", "output", "reasoning", "answer"), EACH_SAMPLE)
def test_separates(name: str, output: str, reasoning: str, answer: str) -> None:
    whole = parse(name, output)
    assert separated(whole) == (reasoning, answer)
    assert parse(name, *output) == whole
    for cut in range(len(output)):
        assert parse(name, output[:cut], output[cut:]) == whole


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(parts=st.lists(st.sampled_from(MARKUP), max_size=10), inside=st.sampled_from([None, True, False]))
def test_any_cut_gives_the_same(name: str, parts: list[str], inside: bool | None) -> None:
    output = "".join(parts)
    whole = parse(name, output, starts_inside=inside)
    assert parse(name, *output, starts_inside=inside) == whole
    assert parse(name, *parts, starts_inside=inside) == whole
    remaining = iter(output)
    for piece in whole:
        text = piece.text if isinstance(piece, ReasoningPiece | TextPiece) else ""
        assert all(character in remaining for character in text), "text comes out in order, and none is made up"
    if not any(part.startswith(("<", " to=", "◁")) for part in parts) and inside is False:
        assert separated(whole) == ("", output)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gpt-oss"])
def test_a_prompt_may_have_begun_the_reasoning(name: str) -> None:
    end = "◁/think▷" if name == "kimi" else "</think>"
    assert separated(parse(name, f"Hm.{end}Yes.", starts_inside=True)) == ("Hm.", "Yes.")
    assert separated(parse(name, f"Hm.{end}Yes.", starts_inside=False)) == ("", f"Hm.{end}Yes.")
    begin = end.replace("/", "")
    starts_inside = reasoning_format(name).starts_inside
    assert [starts_inside(prompt) for prompt in (f"x{begin}\n", f"x{begin}\n\n{end}\n\n", "x")] == [True, False, None]
