"""Forced text becomes the tokens that the tokenizer would write, or as many of them as nothing that follows can change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from runtime.sampling.grammar_backend import GrammarVocabulary
from runtime.sampling.grammar_backends.llguidance import make_tokenizer, token_bytes
from runtime.sampling.retokenizer import Retokenizer

TEXT = st.text(alphabet='ab {}":,_1é', max_size=12) | st.sampled_from(
    ('{"name": "', "hello world", "_key_name", " the quick", "é")
)


@pytest.fixture(scope="session")
def retokenizer(vocabulary: GrammarVocabulary) -> Retokenizer:
    return Retokenizer(vocabulary.tokenizer_json, token_bytes(make_tokenizer(vocabulary), vocabulary))


@given(before=TEXT, forced=TEXT, after=TEXT)
@settings(max_examples=400, deadline=None)
def test_the_final_text_is_cut_as_the_tokenizer_cuts_it(
    retokenizer: Retokenizer, tokenizer: Tokenizer, before: str, forced: str, after: str
) -> None:
    recent = tokenizer.encode(before).ids
    ids = retokenizer.forced_ids(recent, forced.encode())
    assert (before + forced).startswith(tokenizer.decode([*recent, *ids]))
    if ids:
        assert tokenizer.encode(before + forced + after).ids[: len(recent) + len(ids)] == [*recent, *ids]


def test_a_long_key_is_forced_but_for_its_end(retokenizer: Retokenizer, tokenizer: Tokenizer) -> None:
    recent = tokenizer.encode('{"').ids
    ids = retokenizer.forced_ids(recent, b'long_key_name": {"nested_key')
    assert tokenizer.decode(ids).startswith('long_key_name": {"nested')


def test_no_token_crosses_the_seam(retokenizer: Retokenizer, tokenizer: Tokenizer) -> None:
    """The model has begun a word in its own way: what the tokenizer would write does not fit to it."""
    begun = [tokenizer.encode("h").ids[0]]
    assert retokenizer.forced_ids(begun, b"ello") == ()


def test_a_part_of_a_character_waits(retokenizer: Retokenizer) -> None:
    assert retokenizer.forced_ids([], "é".encode()[:1]) == ()


def test_a_special_token_is_one_only_where_it_is_read(vocabulary: GrammarVocabulary, tokenizer: Tokenizer) -> None:
    texts = token_bytes(make_tokenizer(vocabulary), vocabulary)
    reading = Retokenizer(vocabulary.tokenizer_json, texts, reads_special_tokens=True)
    plain = Retokenizer(vocabulary.tokenizer_json, texts)
    marker = tokenizer.token_to_id("<|call|>")
    assert marker in reading.forced_ids([], b"<|call|> and more")
    assert marker not in plain.forced_ids([], b"<|call|> and more")
