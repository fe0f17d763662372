"""Stop strings are found wherever the text is cut, and nothing but a possible beginning is held back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.stop_strings import StopStrings

TEXTS = st.text("ab\ufffd", max_size=40)
STOPS = st.lists(st.text("ab\ufffd", min_size=1, max_size=6), max_size=4)


def reference(text: str, stops: list[str], *, keep_match: bool) -> tuple[str, str | None]:
    """The match that ends first; of several that end there the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            matched = max(ending, key=len)
            return text[: end if keep_match else end - len(matched)], matched
    return text, None


def longest_beginning(text: str, stops: list[str]) -> int:
    return max((size for stop in stops for size in range(len(stop)) if text.endswith(stop[:size])), default=0)


@settings(max_examples=400)
@given(TEXTS, STOPS, st.booleans(), st.data())
def test_same_as_a_search_in_the_whole_text(text: str, stops: list[str], keep_match: bool, data: st.DataObject) -> None:
    finder = StopStrings(stops, keep_match=keep_match)
    shown, matched, position = "", None, 0
    while position < len(text) and matched is None:
        size = data.draw(st.integers(1, len(text) - position))
        piece, matched = finder.push(text[position : position + size])
        position += size
        shown += piece
        if matched is None:
            num_held = 0 if keep_match else longest_beginning(text[:position], stops)
            assert shown == text[: position - num_held]
    if matched is None:
        shown += finder.flush()
    assert (shown, matched) == reference(text, stops, keep_match=keep_match)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "matched"),
    [
        (["hello END more"], ["END"], "hello ", "END"),
        (["hello E", "N", "D more"], ["END"], "hello ", "END"),
        (["a b c"], ["c", "b"], "a ", "b"),
        (["xabcd"], ["bcd", "c"], "xab", "c"),
        (["xabc"], ["c", "abc"], "x", "abc"),
        (["aab", "aac"], ["aac"], "aab", "aac"),
        (["aaab"], ["aab"], "a", "aab"),
        (["ababac"], ["abac"], "ab", "abac"),
        (["\n", "\n"], ["\n\n"], "", "\n\n"),
        (["no stop"], [], "no stop", None),
    ],
)
def test_table(pieces: list[str], stops: list[str], shown: str, matched: str | None) -> None:
    finder = StopStrings(stops, keep_match=False)
    found = [finder.push(piece) for piece in pieces]
    assert "".join(piece for piece, _ in found) == shown
    assert found[-1][1] == matched
