"""A byte-level tokenizer with a few hundred tokens, and the backends on it: small, and real."""

from __future__ import annotations

from functools import partial

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from runtime.sampling.grammar_backend import GrammarBackend, GrammarVocabulary, make_backend
from runtime.sampling.grammar_plan import Choice
from tests.sampling.judge import Judge

TEXTS = (
    '{"name": "John Smith", "age": 30, "is_active": true, "email": "john@example.com", "tags": ["a", "b"], "score": -1.5e3}',
    '{"long_key_name": {"nested_key_name": null}, "other_key_name": [1, 2, 34, 567], "status": "ok", "date": "2024-01-31"}',
    "the quick brown fox jumps over the lazy dog, and the model answers: yes, no or perhaps; hello world, how are you?",
    "def f(x): return x + 1  # https://www.example.org/path?query=1",
)
EOS, TURN_END = 0, 1


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|end|>", "<|im_end|>", "<|call|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


@pytest.fixture(scope="session")
def vocabulary(tokenizer: Tokenizer) -> GrammarVocabulary:
    """Logits are wider than the tokenizer, as they often are."""
    return GrammarVocabulary(tokenizer.to_str(), (EOS, TURN_END), tokenizer.get_vocab_size() + 23)


@pytest.fixture(scope="session")
def llguidance(vocabulary: GrammarVocabulary) -> GrammarBackend:
    return make_backend("llguidance", vocabulary)


@pytest.fixture(scope="session")
def xgrammar(vocabulary: GrammarVocabulary) -> GrammarBackend:
    return make_backend("xgrammar", vocabulary)


@pytest.fixture(scope="session")
def judge(tokenizer: Tokenizer, vocabulary: GrammarVocabulary) -> Judge:
    return Judge(tokenizer, vocabulary, partial(make_backend, vocabulary=vocabulary))


@pytest.fixture(scope="session", params=("auto", "xgrammar"))
def choice(request: pytest.FixtureRequest) -> Choice:
    chosen: Choice = request.param
    return chosen
