"""A sequence's rows, joined, are the plain decoding of its ids, cut at the first stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.messages import Finish, TextOpen, TextRow, TokenLogprobs, TokenRow
from runtime.params import TextOptions
from runtime.text.decoding import TokenDecoding
from runtime.text.text_sequence import TextSequence
from runtime.text.token_bytes import TokenBytes
from tests.text.conftest import BYTE_LEVEL, token_id
from tests.text.test_stop_strings import reference

DECODING = TokenDecoding(BYTE_LEVEL.tokenizer)
END = token_id(BYTE_LEVEL, "<|im_end|>")


def opened(options: TextOptions) -> TextOpen:
    return TextOpen(request_id=7, text=options, prompt_ids=(), num_prompt_tokens=5, num_cached_tokens=2)


def run(rows: list[TokenRow], options: TextOptions) -> list[TextRow]:
    """Rows up to the terminal one."""
    sequence, found = TextSequence(opened(options), DECODING, TokenBytes(BYTE_LEVEL.tokenizer)), []
    for row in rows:
        found.append(sequence.advance(row))
        if found[-1].finish is not None:
            break
    return found


def stop_strings(draw: st.DrawFn, text: str) -> tuple[str, ...]:
    """Strings that occur, strings that nearly occur, and others."""
    ends = st.integers(0, max(len(text) - 1, 0))
    inside = st.builds(lambda start, size: text[start : start + size], ends, st.integers(1, 5))
    stops = draw(st.lists(inside | inside.map(lambda found: found + "?") | st.text("ab", max_size=3), max_size=3))
    return tuple(stop for stop in stops if stop)


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[TokenRow], TextOptions, str, str | None]:
    ids = draw(st.lists(st.integers(0, BYTE_LEVEL.num_tokens - 1), min_size=1, max_size=30))
    skip, keep = draw(st.booleans()), draw(st.booleans())
    text = BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=skip)
    stops = stop_strings(draw, text)
    rows, position = [], 0
    while position < len(ids):
        size = draw(st.integers(1, 4))
        rows.append(TokenRow(7, tuple(ids[position : position + size])))
        position += size
    rows[-1] = TokenRow(7, rows[-1].token_ids, Finish("length", length=len(ids)))
    options = TextOptions(stop=stops, no_stop_trim=keep, skip_special_tokens=skip)
    return rows, options, *reference(text, list(stops), keep_match=keep)


@given(scenarios())
def test_same_as_the_plain_decoding(scenario: tuple[list[TokenRow], TextOptions, str, str | None]) -> None:
    rows, options, text, matched = scenario
    found = run(rows, options)
    assert "".join(row.text for row in found) == text
    finish = found[-1].finish
    assert finish is not None
    assert (finish.type, finish.matched) == (("stop", matched) if matched else ("length", None))
    assert [row.finish for row in found[:-1]] == [None] * (len(found) - 1)
    assert [row.token_ids for row in found[:-1]] == [row.token_ids for row in rows[: len(found) - 1]]
    last, whole = found[-1].token_ids, rows[len(found) - 1].token_ids
    assert last == whole[: len(last)]
    assert len(last) == len(whole) or matched
    assert found[-1].num_completion_tokens == sum(len(row.token_ids) for row in found)


def test_a_long_row_ends_with_the_token_that_completes_a_stop_string() -> None:
    a, b = token_id(BYTE_LEVEL, "a"), token_id(BYTE_LEVEL, "b")
    row = TokenRow(7, (a, b, a, a), Finish("stop"), TokenLogprobs((a, b, a, a), (-1.0, -2.0, -3.0, -4.0)))
    (found,) = run([row], TextOptions(stop=("b",)))
    assert (found.text, found.token_ids, found.num_completion_tokens) == ("a", (a, b), 2)
    assert found.logprobs == TokenLogprobs((a, b), (-1.0, -2.0))


def stopped_by(token: int, options: TextOptions) -> TextRow:
    letter = token_id(BYTE_LEVEL, "a")
    return run([TokenRow(7, (letter, token), Finish("stop", matched=token))], options)[-1]


def test_the_stop_token_is_counted_and_listed_but_no_text() -> None:
    for token, skip in ((END, True), (END, False), (token_id(BYTE_LEVEL, "b"), True)):
        row = stopped_by(token, TextOptions(skip_special_tokens=skip))
        assert (row.text, row.num_completion_tokens, row.token_ids[-1]) == ("a", 2, token)


def test_the_stop_token_is_text_if_the_client_keeps_it() -> None:
    assert stopped_by(token_id(BYTE_LEVEL, "b"), TextOptions(no_stop_trim=True)).text == "ab"
    assert stopped_by(END, TextOptions(no_stop_trim=True)).text == "a"
    assert stopped_by(END, TextOptions(no_stop_trim=True, skip_special_tokens=False)).text == "a<|im_end|>"


def test_an_incomplete_character_is_shown_at_the_end() -> None:
    first = token_id(BYTE_LEVEL, "Ã")
    rows = run([TokenRow(7, (first,)), TokenRow(7, (), Finish("abort"))], TextOptions())
    assert [row.text for row in rows] == ["", "\ufffd"]


def test_a_held_beginning_of_a_stop_string_is_shown_at_the_end() -> None:
    letter = token_id(BYTE_LEVEL, "a")
    rows = run([TokenRow(7, (letter,)), TokenRow(7, (letter,), Finish("length", length=2))], TextOptions(stop=("ab",)))
    assert [row.text for row in rows] == ["", "aa"]


def test_rows_carry_the_prompt_counts() -> None:
    row = stopped_by(END, TextOptions())
    assert (row.request_id, row.num_prompt_tokens, row.num_cached_tokens) == (7, 5, 2)
