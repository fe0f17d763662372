"""Asks a grammar whether it accepts a text, and has it write one: through matchers, token by token, as the executor does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
from jsonschema import validators
from tokenizers import Tokenizer

from runtime.params import GrammarSpec
from runtime.sampling.grammar_backend import GrammarBackend, GrammarVocabulary, LoadedGrammar
from runtime.sampling.grammar_plan import Choice, plan
from runtime.sampling.matcher import Mask, Matcher

SPELLINGS: tuple[dict[str, Any], ...] = ({}, {"separators": (",", ":")}, {"separators": (", ", ":")})


class Judge:
    """Compiles in this process: the grammars of tests are tame."""

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: GrammarVocabulary, make_backend: Callable[[str], GrammarBackend]
    ) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self._make_backend = make_backend
        self._backends: dict[str, GrammarBackend] = {}

    def compile(self, spec: GrammarSpec, choice: Choice = "auto") -> LoadedGrammar:
        """Raises `RequestError`."""
        planned = plan(spec, choice)
        if planned.backend not in self._backends:
            self._backends[planned.backend] = self._make_backend(planned.backend)
        backend = self._backends[planned.backend]
        return backend.load(backend.compile(planned))

    def json_schema(self, schema: Any, choice: Choice = "auto") -> LoadedGrammar:
        return self.compile(GrammarSpec("json_schema", json.dumps(schema)), choice)

    def accepts(self, grammar: LoadedGrammar, text: str) -> bool:
        """Whether the grammar takes exactly this text."""
        matcher = grammar.open()
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return all(map(matcher.accept, ids)) and matcher.accept(self.vocabulary.eos_token_ids[0])

    def accepts_value(self, grammar: LoadedGrammar, value: Any) -> set[bool]:
        """The verdicts on the value's spellings."""
        return {self.accepts(grammar, json.dumps(value, ensure_ascii=False, **style)) for style in SPELLINGS}

    def mask(self, matcher: Matcher) -> list[int]:
        """The ids that are allowed now."""
        words: Mask = np.zeros(-(-self.vocabulary.vocab_size // 32), dtype=np.int32)
        matcher.fill_mask(words)
        bits = np.unpackbits(words.view(np.uint8), count=self.vocabulary.vocab_size, bitorder="little")
        return [int(at) for at in np.flatnonzero(bits)]

    def walk(self, grammar: LoadedGrammar, chance: Random, max_tokens: int = 400) -> str | None:
        """A text of random allowed tokens, forced ones included; None if it did not end.

        After a quarter of the tokens those are preferred that may end something.
        """
        matcher, ids = grammar.open(), []
        while len(ids) < max_tokens:
            for forced in matcher.forced_ids():
                assert matcher.accept(forced), "a forced token is allowed"
                ids.append(forced)
            if matcher.is_complete:
                break
            allowed = self.mask(matcher)
            assert allowed, "a grammar never ends in nothing"
            stops = [token_id for token_id in allowed if token_id in self.vocabulary.eos_token_ids]
            token_id = stops[0] if stops and chance.random() < 0.3 else self._pick(allowed, chance, len(ids) > max_tokens // 4)
            assert matcher.accept(token_id), "an allowed token is accepted"
            if token_id in self.vocabulary.eos_token_ids:
                break
            ids.append(token_id)
        else:
            return None
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _pick(self, allowed: list[int], chance: Random, hurries: bool) -> int:
        if hurries and chance.random() < 0.5:
            closing = [token_id for token_id in allowed if self.text(token_id) in set('"}],\\@.<>*/-')]
            allowed = closing or allowed
        return chance.choice(allowed)

    def text(self, token_id: int) -> str:
        return self.tokenizer.decode([token_id], skip_special_tokens=False)


class Orders:
    """A value with its properties in the order of its schema, which is the one that grammars write."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        cls = validators.validator_for(schema, default=validators.Draft202012Validator)
        self._validator = cls(schema if isinstance(schema, dict) else {})

    def ordered(self, value: Any) -> Any:
        return self._ordered([self._root], value)

    def _ordered(self, schemas: list[Any], value: Any) -> Any:
        parts = [part for schema in schemas for part in self._parts(schema, value)]
        if isinstance(value, list):
            inner = [part["items"] for part in parts if isinstance(part.get("items"), dict)]
            return [self._ordered(inner, item) for item in value]
        if not isinstance(value, dict):
            return value
        listed = dict.fromkeys(name for part in parts for name in part.get("properties", {}))
        listed |= dict.fromkeys(name for part in parts for name in part.get("required", ()) if isinstance(name, str))
        order = {name: position for position, name in enumerate(listed)}
        return {
            name: self._ordered([part["properties"][name] for part in parts if name in part.get("properties", {})], value[name])
            for name in sorted(value, key=lambda name: order.get(name, len(order)))
        }

    def _parts(self, schema: Any, value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
        """The schemas that hold for the value: of alternatives those that it satisfies."""
        if not isinstance(schema, dict) or depth > 8:
            return
        if isinstance(schema.get("$ref"), str):
            resolved = self._validator._resolver.lookup(schema["$ref"]).contents
            yield from self._parts(resolved, value, depth + 1)
        yield schema
        for keyword in ("allOf", "anyOf", "oneOf"):
            for branch in schema.get(keyword, ()):
                if self._validator.evolve(schema=branch).is_valid(value):
                    yield from self._parts(branch, value, depth + 1)
