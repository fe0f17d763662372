"""The store keeps the grammars that were used last, within its bytes, and loads dropped ones again."""

from __future__ import annotations

import pytest

from runtime.sampling.grammar_backend import GrammarBackend, GrammarVocabulary, LoadedGrammar
from runtime.sampling.grammar_store import GrammarStore


class Loads:
    """A backend that counts, over a real one."""

    def __init__(self, backend: GrammarBackend) -> None:
        self._backend = backend
        self.num_loads = 0

    def compile(self, grammar: object) -> bytes:
        raise AssertionError("the store does not compile")

    def load(self, compiled: bytes) -> LoadedGrammar:
        self.num_loads += 1
        return self._backend.load(compiled)


@pytest.fixture
def backend(llguidance: GrammarBackend) -> Loads:
    return Loads(llguidance)


def store_of(backend: Loads, vocabulary: GrammarVocabulary, max_bytes: int) -> GrammarStore:
    return GrammarStore(lambda: vocabulary, max_bytes, make=lambda name, vocabulary: backend)


def regex(pattern: str) -> bytes:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(pattern).encode()


def test_matchers_of_one_grammar_are_apart(backend: Loads, vocabulary: GrammarVocabulary) -> None:
    store = store_of(backend, vocabulary, 10**6)
    store.put("k", "llguidance", regex("ab"))
    assert "k" in store
    one, other = store.open("k"), store.open("k")
    letter = next(token_id for token_id in range(200) if one.accept(token_id))
    assert not one.accept(letter)
    assert other.accept(letter)
    assert backend.num_loads == 1


def test_an_unknown_key_is_not_there(backend: Loads, vocabulary: GrammarVocabulary) -> None:
    store = store_of(backend, vocabulary, 10**6)
    assert "k" not in store
    with pytest.raises(KeyError):
        store.open("k")


def test_dropped_grammars_are_loaded_again(backend: Loads, vocabulary: GrammarVocabulary) -> None:
    """Loaded ones take far more than what the child sent."""
    store = store_of(backend, vocabulary, 250_000)
    store.put("a", "llguidance", regex("a"))
    store.put("b", "llguidance", regex("b"))
    store.open("b")
    assert backend.num_loads == 2
    store.open("a")
    assert backend.num_loads == 3


def test_many_grammars_stay_within_bounds(backend: Loads, vocabulary: GrammarVocabulary) -> None:
    max_bytes = 700_000
    store = store_of(backend, vocabulary, max_bytes)
    for number in range(400):
        store.put(str(number), "llguidance", regex("x" * 2000 + str(number)))
        assert store.num_bytes <= 2 * max_bytes
    assert "0" not in store
    assert "399" in store


def test_the_same_key_again_takes_its_place(backend: Loads, vocabulary: GrammarVocabulary) -> None:
    store = store_of(backend, vocabulary, 10**6)
    store.put("k", "llguidance", regex("a"))
    num_bytes = store.num_bytes
    store.put("k", "llguidance", regex("b"))
    assert store.num_bytes == num_bytes
