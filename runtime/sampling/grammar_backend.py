"""What a grammar backend is: it compiles in the child process, and loads what was compiled in the server."""

from __future__ import annotations

from typing import Protocol, cast

import msgspec

from runtime import extensions
from runtime.sampling.grammar_plan import PlannedGrammar
from runtime.sampling.matcher import Matcher

FOLDER = "runtime.sampling.grammar_backends"


class GrammarVocabulary(msgspec.Struct, frozen=True):
    """The tokens that grammars are compiled for. `vocab_size` is the width of the logits."""

    tokenizer_json: str
    eos_token_ids: tuple[int, ...]
    vocab_size: int


class LoadedGrammar(Protocol):
    """A compiled grammar, from which matchers are opened."""

    @property
    def num_bytes(self) -> int:
        """About what it and its matchers keep in memory."""
        ...

    def open(self) -> Matcher:
        """A new matcher at the beginning."""
        ...


class GrammarBackend(Protocol):
    """Both methods may be called from any thread, one at a time."""

    def compile(self, grammar: PlannedGrammar) -> bytes:
        """In the child: may crash, and may take any time. Raises `InvalidRequest`."""
        ...

    def load(self, compiled: bytes) -> LoadedGrammar:
        """In the server: what `compile` returned, in a process that has survived it."""
        ...


class BackendModule(Protocol):
    """A module of `grammar_backends`."""

    def make(self, vocabulary: GrammarVocabulary) -> GrammarBackend: ...


def make_backend(name: str, vocabulary: GrammarVocabulary) -> GrammarBackend:
    """Takes seconds: libraries are imported here. Raises `ConfigError` if there is no such backend."""
    return cast(BackendModule, extensions.load(FOLDER, name)).make(vocabulary)
