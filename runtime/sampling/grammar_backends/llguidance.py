"""llguidance: JSON schemas and regular expressions, by derivatives and an Earley parser, with limits on every step.

Whitespace in JSON is at most one space, after a comma or a colon: more would cost tokens, and a small model can go on in it for
ever. Strings have one spelling for each character: an escaped name would otherwise pass for another one.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from runtime.errors import InvalidRequest
from runtime.sampling.grammar_backend import GrammarVocabulary, LoadedGrammar
from runtime.sampling.grammar_plan import PlannedGrammar
from runtime.sampling.json_schema.refusal import shown
from runtime.sampling.matcher import Mask
from runtime.sampling.retokenizer import NUM_RECENT, Retokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": '"\\bfnrt',
    "json_allow_general_unicode_escapes": False,
}
LIMITS = LLParserLimits(max_lexer_states=25_000, verbose_errors=False)
NO_TEXT = "NoExtensionBias"
"""The library's error for a grammar that allows no token and no end."""
BASE_BYTES = 200_000
BYTES_PER_CHAR = 60
"""Measured: what a parser and its lexer take, by the length of the grammar."""


class LlguidanceMatcher:
    """After an error of the library nothing is allowed any more: the sequence fails, its neighbours do not notice."""

    def __init__(self, matcher: LLMatcher, retokenizer: Retokenizer, stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._retokenizer = retokenizer
        self._stop_ids = stop_ids
        self._has_ended = False
        self._recent: deque[int] = deque(maxlen=NUM_RECENT)

    def accept(self, token_id: int) -> bool:
        if self._has_ended or self._matcher.is_error():
            return False
        if token_id in self._stop_ids:
            self._has_ended = self._matcher.is_accepting()
            return self._has_ended
        if self._matcher.try_consume_tokens([token_id]) != 1:
            return False
        self._recent.append(token_id)
        return True

    def fill_mask(self, mask: Mask) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._has_ended or self._matcher.is_error():
            mask.fill(0)

    def forced_ids(self) -> tuple[int, ...]:
        forced = b"" if self._has_ended else self._matcher.compute_ff_bytes()
        if not forced:
            return ()
        ids = self._retokenizer.forced_ids(self._recent, forced)
        return ids[: self._matcher.validate_tokens(list(ids))] if ids else ()

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped() and self._matcher.is_accepting()


class LlguidanceGrammar:
    def __init__(self, matcher: LLMatcher, retokenizer: Retokenizer, stop_ids: frozenset[int], num_bytes: int) -> None:
        self._matcher = matcher
        self._retokenizer = retokenizer
        self._stop_ids = stop_ids
        self.num_bytes = num_bytes

    def open(self) -> LlguidanceMatcher:
        return LlguidanceMatcher(self._matcher.deep_copy(), self._retokenizer, self._stop_ids)


class LlguidanceBackend:
    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocab_size = vocabulary.vocab_size
        self._stop_ids = frozenset(vocabulary.eos_token_ids)
        self._tokenizer = make_tokenizer(vocabulary)
        self._retokenizer = Retokenizer(vocabulary.tokenizer_json, token_bytes(self._tokenizer, vocabulary))

    def compile(self, grammar: PlannedGrammar) -> bytes:
        source = _to_grammar(grammar)
        matcher = self._matcher(source)
        mask = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        reason = shown(matcher.get_error().partition("\n")[0])
        if matcher.is_error() and reason != NO_TEXT:
            raise InvalidRequest(f"the {grammar.kind} can not be compiled: {reason}", param=grammar.kind)
        if matcher.is_error() or not mask.any():
            raise InvalidRequest(f"the {grammar.kind} allows no text", param=grammar.kind)
        return source.encode()

    def load(self, compiled: bytes) -> LoadedGrammar:
        num_bytes = BASE_BYTES + BYTES_PER_CHAR * len(compiled)
        return LlguidanceGrammar(self._matcher(compiled.decode()), self._retokenizer, self._stop_ids, num_bytes)

    def _matcher(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)


def make(vocabulary: GrammarVocabulary) -> LlguidanceBackend:
    return LlguidanceBackend(vocabulary)


def make_tokenizer(vocabulary: GrammarVocabulary) -> LLTokenizer:
    return LLTokenizer(
        vocabulary.tokenizer_json, n_vocab=vocabulary.vocab_size, eos_token=list(vocabulary.eos_token_ids) or None
    )


def token_bytes(tokenizer: LLTokenizer, vocabulary: GrammarVocabulary) -> list[bytes]:
    """[vocab] the text of each token as bytes, a part of a character for some; nothing for ids that no token has."""
    known = Tokenizer.from_str(vocabulary.tokenizer_json)
    return [
        b"" if known.id_to_token(token_id) is None else tokenizer.decode_bytes([token_id])
        for token_id in range(vocabulary.vocab_size)
    ]


def _to_grammar(grammar: PlannedGrammar) -> str:
    if grammar.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(json.loads(grammar.source), overrides=JSON_OPTIONS)
    return LLMatcher.grammar_from_regex(grammar.source)
