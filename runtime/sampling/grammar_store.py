"""The compiled grammars that the compiler puts in and the executor opens.

Owns both: what the child sent, and the grammars loaded from it, each least recently used first and bounded in bytes. A grammar
that was dropped is loaded again from what the child sent, so one that is announced can be opened much longer than it is loaded.
Invariant: one lock guards both, for `put` and `open` run on different threads; backends are made once, under another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from runtime.sampling.grammar_backend import GrammarBackend, GrammarVocabulary, LoadedGrammar, make_backend
from runtime.sampling.matcher import Matcher

MakeBackend = Callable[[str, GrammarVocabulary], GrammarBackend]


class GrammarStore:
    """A `MatcherSource`. `max_bytes` bounds each of the two; the newest is kept whatever its size.

    `describe` says for which tokens grammars are compiled; it is called when the first one is, since it takes a while.
    """

    def __init__(self, describe: Callable[[], GrammarVocabulary], max_bytes: int, make: MakeBackend = make_backend) -> None:
        self._describe = describe
        self._vocabulary: GrammarVocabulary | None = None
        self._max_bytes = max_bytes
        self._make = make
        self._backends: dict[str, GrammarBackend] = {}
        self._compiled: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._loaded: OrderedDict[str, LoadedGrammar] = OrderedDict()
        self._num_compiled_bytes = 0
        self._num_loaded_bytes = 0
        self._lock = threading.Lock()
        self._backends_lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        """Whether it can be opened; if so, it counts as used."""
        with self._lock:
            if key not in self._compiled:
                return False
            self._compiled.move_to_end(key)
            return True

    def vocabulary(self) -> GrammarVocabulary:
        """Takes a while the first time: not for the event loop."""
        with self._backends_lock:
            return self._known_vocabulary()

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return self._num_compiled_bytes + self._num_loaded_bytes

    def put(self, key: str, backend: str, compiled: bytes) -> None:
        """Load what the child compiled and keep it. Takes seconds the first time: not for the event loop."""
        grammar = self._backend(backend).load(compiled)
        with self._lock:
            self._drop(key)
            self._compiled[key] = (backend, compiled)
            self._num_compiled_bytes += len(compiled)
            while self._num_compiled_bytes > self._max_bytes and len(self._compiled) > 1:
                self._drop(next(iter(self._compiled)))
            self._keep(key, grammar)

    def open(self, key: str) -> Matcher:
        """A new matcher. Raises `KeyError` if the grammar was dropped."""
        with self._lock:
            backend, compiled = self._compiled[key]
            self._compiled.move_to_end(key)
            grammar = self._loaded.get(key)
            if grammar is not None:
                self._loaded.move_to_end(key)
                return grammar.open()
        grammar = self._backend(backend).load(compiled)
        with self._lock:
            if key in self._compiled and key not in self._loaded:
                self._keep(key, grammar)
        return grammar.open()

    def _keep(self, key: str, grammar: LoadedGrammar) -> None:
        self._loaded[key] = grammar
        self._num_loaded_bytes += grammar.num_bytes
        while self._num_loaded_bytes > self._max_bytes and len(self._loaded) > 1:
            self._num_loaded_bytes -= self._loaded.popitem(last=False)[1].num_bytes

    def _drop(self, key: str) -> None:
        if key in self._compiled:
            self._num_compiled_bytes -= len(self._compiled.pop(key)[1])
        if key in self._loaded:
            self._num_loaded_bytes -= self._loaded.pop(key).num_bytes

    def _backend(self, name: str) -> GrammarBackend:
        with self._backends_lock:
            if name not in self._backends:
                self._backends[name] = self._make(name, self._known_vocabulary())
            return self._backends[name]

    def _known_vocabulary(self) -> GrammarVocabulary:
        if self._vocabulary is None:
            self._vocabulary = self._describe()
        return self._vocabulary
