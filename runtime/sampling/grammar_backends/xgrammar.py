"""xgrammar: EBNF grammars and structural tags, and JSON schemas where it is chosen.

The child sends a compiled grammar as JSON, which is read in the server several times faster than compiled again. Special tokens
are text in structural tags only, whose markers they may be.
"""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import xgrammar

from runtime.errors import InvalidRequest
from runtime.sampling.grammar_backend import GrammarVocabulary, LoadedGrammar
from runtime.sampling.grammar_backends.llguidance import make_tokenizer, token_bytes
from runtime.sampling.grammar_plan import MAX_WHITESPACE, PlannedGrammar
from runtime.sampling.json_schema.refusal import shown
from runtime.sampling.matcher import Mask
from runtime.sampling.retokenizer import NUM_RECENT, Retokenizer

TAG, PLAIN = b"T", b"P"
"""The first byte of a compiled grammar: whether special tokens are text in it."""


class XgrammarMatcher:
    def __init__(self, matcher: xgrammar.GrammarMatcher, retokenizer: Retokenizer, num_stops: int, vocab_size: int) -> None:
        self._matcher = matcher
        self._retokenizer = retokenizer
        self._num_stops = num_stops
        self._recent: deque[int] = deque(maxlen=NUM_RECENT)
        self._vocab_size = vocab_size
        self._scratch: Mask = np.zeros(-(-vocab_size // 32), dtype=np.int32)

    def accept(self, token_id: int) -> bool:
        if self._matcher.is_terminated() or not self._matcher.accept_token(token_id):
            return False
        self._recent.append(token_id)
        return True

    def fill_mask(self, mask: Mask) -> None:
        if self._matcher.is_terminated():
            mask.fill(0)
        else:
            self._matcher.fill_next_token_bitmask(mask)

    def forced_ids(self) -> tuple[int, ...]:
        if self._matcher.is_terminated():
            return ()
        forced = _forced_text(self._matcher)
        ids = self._retokenizer.forced_ids(self._recent, forced.encode()) if forced else ()
        return ids[: self._num_accepted(ids)]

    def _num_accepted(self, ids: tuple[int, ...]) -> int:
        num_accepted = 0
        while num_accepted < len(ids) and self._matcher.accept_token(ids[num_accepted]):
            num_accepted += 1
        if num_accepted:
            self._matcher.rollback(num_accepted)
        return num_accepted

    @property
    def is_complete(self) -> bool:
        """An end at which the only tokens that may follow are the stop tokens."""
        if self._matcher.is_terminated() or not self._matcher.is_completed():
            return self._matcher.is_terminated()
        self._matcher.fill_next_token_bitmask(self._scratch)
        allowed = np.unpackbits(self._scratch.view(np.uint8), count=self._vocab_size, bitorder="little")
        return int(allowed.sum()) <= self._num_stops


class XgrammarGrammar:
    def __init__(self, compiled: xgrammar.CompiledGrammar, retokenizer: Retokenizer, num_stops: int, vocab_size: int) -> None:
        self._compiled = compiled
        self._retokenizer = retokenizer
        self._num_stops = num_stops
        self._vocab_size = vocab_size
        self.num_bytes: int = compiled.memory_size_bytes

    def open(self) -> XgrammarMatcher:
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return XgrammarMatcher(matcher, self._retokenizer, self._num_stops, self._vocab_size)


class _Tokens:
    """The vocabulary in one of two readings, and what belongs to it."""

    def __init__(self, vocabulary: GrammarVocabulary, *, reads_special_tokens: bool) -> None:
        texts = token_bytes(make_tokenizer(vocabulary), vocabulary)
        special_ids = special_token_ids(vocabulary.tokenizer_json, reads_special_tokens)
        for token_id, text in special_ids.items():
            if token_id < len(texts):
                texts[token_id] = text
        self.info = xgrammar.TokenizerInfo(
            texts,
            xgrammar.VocabType.RAW,
            vocab_size=vocabulary.vocab_size,
            stop_token_ids=list(vocabulary.eos_token_ids),
        )
        self.compiler = xgrammar.GrammarCompiler(self.info, max_threads=1, cache_enabled=False)
        self.retokenizer = Retokenizer(vocabulary.tokenizer_json, texts, reads_special_tokens=reads_special_tokens)


class XgrammarBackend:
    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: dict[bytes, _Tokens] = {}

    def compile(self, grammar: PlannedGrammar) -> bytes:
        reading = TAG if grammar.kind == "structural_tag" else PLAIN
        try:
            compiled = _compile(self._tokens_of(reading).compiler, grammar)
            _try_first_step(compiled, self._vocabulary.vocab_size)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = shown(str(error).strip().partition("\n")[0].partition("] ")[2] or str(error).partition("\n")[0])
            raise InvalidRequest(f"the {grammar.kind} can not be compiled: {reason}", param=grammar.kind) from None
        return reading + compiled.serialize_json().encode()

    def load(self, compiled: bytes) -> LoadedGrammar:
        tokens = self._tokens_of(compiled[:1])
        grammar = xgrammar.CompiledGrammar.deserialize_json(compiled[1:].decode(), tokens.info)
        return XgrammarGrammar(grammar, tokens.retokenizer, len(self._vocabulary.eos_token_ids), self._vocabulary.vocab_size)

    def _tokens_of(self, reading: bytes) -> _Tokens:
        if reading not in self._tokens:
            self._tokens[reading] = _Tokens(self._vocabulary, reads_special_tokens=reading == TAG)
        return self._tokens[reading]


def make(vocabulary: GrammarVocabulary) -> XgrammarBackend:
    return XgrammarBackend(vocabulary)


def special_token_ids(tokenizer_json: str, reads_special_tokens: bool) -> dict[int, bytes]:
    """The special tokens by id, each as its text or as nothing: xgrammar never allows a token that is nothing."""
    added = json.loads(tokenizer_json).get("added_tokens", [])
    return {token["id"]: token["content"].encode() if reads_special_tokens else b"" for token in added if token["special"]}


def _compile(compiler: xgrammar.GrammarCompiler, grammar: PlannedGrammar) -> xgrammar.CompiledGrammar:
    match grammar.kind:
        case "json_schema":
            return compiler.compile_json_schema(grammar.source, strict_mode=False, max_whitespace_cnt=MAX_WHITESPACE)
        case "regex":
            return compiler.compile_regex(grammar.source)
        case "ebnf":
            return compiler.compile_grammar(grammar.source)
        case "structural_tag":
            return compiler.compile_structural_tag(grammar.source)


def _forced_text(matcher: xgrammar.GrammarMatcher) -> str:
    """What has to follow; nothing if it is a part of a character, which the library can not return."""
    try:
        return str(matcher.find_jump_forward_string())
    except UnicodeDecodeError:
        return ""


def _try_first_step(compiled: xgrammar.CompiledGrammar, vocab_size: int) -> None:
    """What would go wrong in the server goes wrong here. Raises `ValueError` if no text is allowed."""
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = np.zeros(-(-vocab_size // 32), dtype=np.int32)
    matcher.fill_next_token_bitmask(mask)
    _forced_text(matcher)
    if not mask.any():
        raise ValueError("it allows no text")
