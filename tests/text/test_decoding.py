"""The pieces of a stream joined are the text of all ids decoded at once, however the ids were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.loading.vocabulary import Vocabulary
from runtime.text.decoding import MAX_HELD_TOKENS, BadTokenId, TextStream, TokenDecoding
from tests.text.conftest import BYTE_LEVEL, SAMPLES, SENTENCEPIECE, token_id

VOCABULARIES = pytest.mark.parametrize("vocabulary", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte-level", "sentencepiece"])


def stream(vocabulary: Vocabulary, *, skip: bool = True, context_ids: tuple[int, ...] = ()) -> TextStream:
    return TextStream(TokenDecoding(vocabulary.tokenizer), skip_special_tokens=skip, context_ids=context_ids)


def decode_in_chunks(vocabulary: Vocabulary, chunks: list[list[int]], *, skip: bool = True) -> str:
    text = stream(vocabulary, skip=skip)
    return "".join(text.push(chunk) for chunk in chunks) + text.flush()


def cut(ids: list[int], cuts: set[int]) -> list[list[int]]:
    return [ids[start:end] for start, end in pairwise([0, *sorted(c for c in cuts if c < len(ids)), len(ids)])]


@VOCABULARIES
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_split_of_a_sample_gives_the_whole_text(vocabulary: Vocabulary, sample: str, skip: bool) -> None:
    ids = vocabulary.tokenizer.encode(sample).ids
    whole = vocabulary.tokenizer.decode(ids, skip_special_tokens=skip)
    for position in range(len(ids) + 1):
        assert decode_in_chunks(vocabulary, [ids[:position], ids[position:]], skip=skip) == whole
    assert decode_in_chunks(vocabulary, [[token] for token in ids], skip=skip) == whole


@VOCABULARIES
@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if "\ufffd" not in sample])
def test_no_incomplete_character_is_shown(vocabulary: Vocabulary, sample: str) -> None:
    text = stream(vocabulary)
    for token in vocabulary.tokenizer.encode(sample).ids:
        assert "\ufffd" not in text.push([token])


@given(st.lists(st.integers(0, BYTE_LEVEL.num_tokens + 3), max_size=60), st.sets(st.integers(1, 59)), st.booleans())
def test_random_ids_of_a_byte_level_vocabulary(ids: list[int], cuts: set[int], skip: bool) -> None:
    whole = BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=skip)
    assert decode_in_chunks(BYTE_LEVEL, cut(ids, cuts), skip=skip) == whole


@given(st.lists(st.sampled_from([0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0x61]), max_size=60), st.sets(st.integers(1, 59)))
def test_random_bytes_of_a_byte_level_vocabulary(content: list[int], cuts: set[int]) -> None:
    spelled = {token_id(BYTE_LEVEL, spelling): byte for spelling, byte in _spellings().items()}
    ids = [next(token for token, value in spelled.items() if value == byte) for byte in content]
    assert decode_in_chunks(BYTE_LEVEL, cut(ids, cuts)) == bytes(content).decode("utf-8", "replace")


def _spellings() -> dict[str, int]:
    return {"Ã": 0xC3, "©": 0xA9, "ð": 0xF0, "Ł": 0x9F, "ĺ": 0x98, "Ģ": 0x80, "ÿ": 0xFF, "a": 0x61}


@given(
    st.lists(st.integers(259, SENTENCEPIECE.num_tokens - 1) | st.sampled_from([1, 2]), max_size=40), st.sets(st.integers(1, 39))
)
def test_random_pieces_of_a_sentencepiece_vocabulary(ids: list[int], cuts: set[int]) -> None:
    assert decode_in_chunks(SENTENCEPIECE, cut(ids, cuts)) == SENTENCEPIECE.tokenizer.decode(ids)


@given(st.text("abthe!é你😀 ▁<\n\u0300\ufffd", max_size=30), st.sets(st.integers(1, 99)))
def test_random_text_of_a_sentencepiece_vocabulary(sample: str, cuts: set[int]) -> None:
    ids = SENTENCEPIECE.tokenizer.encode(sample).ids
    assert decode_in_chunks(SENTENCEPIECE, cut(ids, cuts)) == SENTENCEPIECE.tokenizer.decode(ids)


def test_invalid_bytes_do_not_take_back_shown_characters() -> None:
    ids = [3 + byte for byte in "你".encode()] + [3 + 0xE4, token_id(SENTENCEPIECE, "a")]
    assert decode_in_chunks(SENTENCEPIECE, [[token] for token in ids]) == "你\ufffda"


@VOCABULARIES
def test_endless_invalid_bytes_are_shown_and_not_kept(vocabulary: Vocabulary) -> None:
    continuation = token_id(vocabulary, "Ģ" if vocabulary is BYTE_LEVEL else "<0x80>")
    text = stream(vocabulary)
    num_shown = 0
    for num_pushed in range(1, 200):
        num_shown += len(text.push([continuation]))
        assert num_pushed - num_shown <= MAX_HELD_TOKENS
    assert num_shown + len(text.flush()) == 199


def test_the_space_before_the_first_word_depends_on_the_prompt() -> None:
    the, word = token_id(SENTENCEPIECE, "▁the"), token_id(SENTENCEPIECE, "▁a")
    assert stream(SENTENCEPIECE).push([the]) == "the"
    assert stream(SENTENCEPIECE, context_ids=(word,)).push([the]) == " the"


def test_special_tokens_are_text_only_on_request() -> None:
    end = token_id(BYTE_LEVEL, "<|im_end|>")
    assert stream(BYTE_LEVEL, skip=True).push([end]) == ""
    assert stream(BYTE_LEVEL, skip=False).push([end]) == "<|im_end|>"


@VOCABULARIES
def test_ids_of_a_padded_vocabulary_have_no_text(vocabulary: Vocabulary) -> None:
    assert decode_in_chunks(vocabulary, [[vocabulary.num_tokens], [2**31 - 1]]) == ""


@VOCABULARIES
@pytest.mark.parametrize("bad", [-1, 2**31, 10**18])
def test_an_impossible_id_is_refused_and_leaves_the_stream_as_it_was(vocabulary: Vocabulary, bad: int) -> None:
    text = stream(vocabulary)
    with pytest.raises(BadTokenId):
        text.push([token_id(vocabulary, "a"), bad])
    assert text.push([token_id(vocabulary, "a")]) == "a"
