"""The grammar actor: compiles output constraints. Receives `CompileGrammar`; answers the scheduler with `GrammarFailed`.

This build has no grammar compiler, so every constraint is refused. Each request that waits for a key gets the answer.
"""

from __future__ import annotations

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import Unsupported
from runtime.messages import CompileGrammar, GrammarFailed


class Grammar(Actor):
    def __init__(self, scheduler: Ref) -> None:
        self._scheduler = scheduler

    @receives(CompileGrammar)
    async def compile(self, message: CompileGrammar) -> None:
        error = Unsupported("structured outputs are not available in this build", param="response_format")
        self._scheduler.tell(GrammarFailed(key=message.key, failure=error.failure))
