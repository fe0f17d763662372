"""The grammar actor: has output constraints compiled, once for all who wait for the same.

Owns which keys are being compiled, and why others failed. Receives `CompileGrammar` from the tokenizer and `GrammarCompiled`
from the compiler's processes; answers the scheduler with `GrammarReady` or `GrammarFailed`.
Invariant: for each `CompileGrammar` of a key an answer follows; those that come while it is compiled share one.
"""

from __future__ import annotations

from collections import OrderedDict

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import Failure, Unsupported
from runtime.messages import CompileGrammar, GrammarCompiled, GrammarFailed, GrammarReady
from runtime.sampling.grammar_compiler import GrammarCompiler

MAX_FAILURES = 1024
"""Reasons kept, the last used longest: a client that repeats what can not work costs nothing more."""


class Grammar(Actor):
    """Without a compiler every constraint is refused."""

    def __init__(self, scheduler: Ref, compiler: GrammarCompiler | None = None) -> None:
        self._scheduler = scheduler
        self._compiler = compiler
        self._pending: set[str] = set()
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    @receives(CompileGrammar)
    async def compile(self, message: CompileGrammar) -> None:
        key = message.key
        if self._compiler is None:
            self._fail(key, Unsupported("structured outputs are not available here", param="response_format").failure)
        elif key in self._failures:
            self._failures.move_to_end(key)
            self._fail(key, self._failures[key])
        elif self._compiler.has(key):
            self._scheduler.tell(GrammarReady(key=key))
        elif key not in self._pending:
            self._pending.add(key)
            self._compiler.submit(key, message.grammar)

    @receives(GrammarCompiled)
    async def compiled(self, message: GrammarCompiled) -> None:
        """It may be late: from before a restart of this actor, which nobody may wait for any more."""
        self._pending.discard(message.key)
        if message.failure is None:
            self._scheduler.tell(GrammarReady(key=message.key))
            return
        if message.is_lasting:
            self._failures[message.key] = message.failure
            if len(self._failures) > MAX_FAILURES:
                self._failures.popitem(last=False)
        self._fail(message.key, message.failure)

    async def stopped(self) -> None:
        if self._compiler is not None:
            await self._compiler.stop()

    def _fail(self, key: str, failure: Failure) -> None:
        self._scheduler.tell(GrammarFailed(key=key, failure=failure))
