"""The scanner of JSON: what it takes for a value is what Python's parser does, and cuts do not change what it says."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.parsing.json_scanner import MAX_DEPTH, JsonScanner

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=25,
)
FRAGMENTS = st.sampled_from(
    (
        *'[]{}",:\\ \n-0123.eE',
        "[1,",
        "[]",
        "{}",
        '"a"',
        '"a":',
        ", ",
        "true",
        "tru",
        "null",
        "-0",
        "01",
        "1.5e+3",
        "\\u00e",
        "\\n",
        "x",
    )
)


def scanned(text: str, *cuts: int) -> tuple[int, bool, bool]:
    """Where the reading ends, and whether there is a value or none."""
    scanner, position = JsonScanner(), 0
    for begin, end in pairwise(sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})):
        if position == begin:
            position += scanner.scan(text[begin:end], 0)
    if position == len(text):
        scanner.close()
    return position, scanner.is_done, scanner.is_broken


@given(
    value=VALUES, indent=st.sampled_from((None, 0, 2)), cuts=st.lists(st.integers(0, 300), max_size=6), rest=st.text(max_size=3)
)
def test_a_value_is_read_to_its_end(value: object, indent: int | None, cuts: list[int], rest: str) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if isinstance(value, dict | list | str):
        assert scanned(text + rest, *cuts) == (len(text), True, False)
    assert scanned(text, *cuts) == scanned(text, *range(len(text))) == (len(text), True, False)


@given(parts=st.lists(FRAGMENTS, max_size=25), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_cuts_change_nothing(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    whole = scanned(text)
    assert scanned(text, *cuts) == scanned(text, *range(len(text))) == whole
    end, is_done, is_broken = whole
    assert is_done != is_broken
    try:
        _, expected = json.JSONDecoder().raw_decode(text.lstrip(" \n"))
    except json.JSONDecodeError:
        assert not is_done
    else:
        assert not is_done or end == expected + len(text) - len(text.lstrip(" \n"))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("inner", ["[]", "{}", "[1, 2]", '{"b": 1}'])
def test_the_depth_is_bounded_wherever_it_is_cut(opening: str, closing: str, inner: str) -> None:
    for depth, is_done in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False)):
        text = opening * depth + inner + closing * depth
        assert scanned(text)[1] == scanned(text, *range(len(text)))[1] == is_done
