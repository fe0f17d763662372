"""The grammar actor: has output constraints compiled, once for all who wait for the same.

Owns which keys are being compiled, and why others failed. Receives `CompileGrammar` and `GrammarUnwanted` from the scheduler
and `GrammarCompiled` from the compiler's processes; answers the scheduler with `GrammarReady` or `GrammarFailed`.
Invariant: each `CompileGrammar` is followed by one answer or by its `GrammarUnwanted`, which ends the compiling.
"""

from __future__ import annotations

from collections import OrderedDict

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import Failure, Unsupported
from runtime.messages import CompileGrammar, GrammarCompiled, GrammarFailed, GrammarReady, GrammarUnwanted
from runtime.sampling.grammar_compiler import GrammarCompiler

MAX_FAILURES = 1024
"""Reasons kept, the last used longest: a client that repeats what can not work costs nothing more."""


class Grammar(Actor):
    """Without a compiler every constraint is refused."""

    def __init__(self, scheduler: Ref, compiler: GrammarCompiler | None = None) -> None:
        self._scheduler = scheduler
        self._compiler = compiler
        self._pending: dict[str, int] = {}
        """By key, the request that it is compiled for."""
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    @receives(CompileGrammar)
    async def compile(self, message: CompileGrammar) -> None:
        key, request_id = message.key, message.request_id
        if self._compiler is None:
            failure = Unsupported("structured outputs are not available here", param="response_format").failure
            self._answer(key, request_id, failure)
        elif key in self._failures:
            self._failures.move_to_end(key)
            self._answer(key, request_id, self._failures[key])
        elif self._compiler.has(key):
            self._answer(key, request_id, None)
        else:
            self._pending[key] = request_id
            self._compiler.submit(key, message.grammar)

    @receives(GrammarUnwanted)
    async def unwanted(self, message: GrammarUnwanted) -> None:
        """It may be late: the answer is on its way."""
        if self._compiler is not None and self._pending.pop(message.key, None) is not None:
            self._compiler.drop(message.key)

    @receives(GrammarCompiled)
    async def compiled(self, message: GrammarCompiled) -> None:
        """It may be late: unwanted by now, or from before a restart of this actor."""
        if message.failure is not None and message.is_lasting:
            self._remember(message.key, message.failure)
        request_id = self._pending.pop(message.key, None)
        if request_id is not None and self._compiler is not None:
            self._compiler.drop(message.key)  # it was dropped and submitted again while this was on its way
            self._answer(message.key, request_id, message.failure)

    async def stopped(self) -> None:
        if self._compiler is not None:
            await self._compiler.stop()

    def _remember(self, key: str, failure: Failure) -> None:
        self._failures[key] = failure
        if len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)

    def _answer(self, key: str, request_id: int, failure: Failure | None) -> None:
        if failure is None:
            self._scheduler.tell(GrammarReady(request_id=request_id, key=key))
        else:
            self._scheduler.tell(GrammarFailed(request_id=request_id, key=key, failure=failure))
