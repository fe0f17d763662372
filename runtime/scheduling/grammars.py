"""Which requests wait for which grammar.

Owns the waits. A grammar is asked for when the first request waits for it, so a key is under way once, and given up when the
last of them leaves. Both go to the Grammar actor in order, so that it compiles what somebody waits for and nothing else.
Nothing is remembered beyond that: a grammar that is there is announced in a mailbox's time, and it may be dropped meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.messages import CompileGrammar, GrammarFailed, GrammarReady, GrammarUnwanted
from runtime.params import GrammarSpec
from runtime.scheduling.effects import Outbox
from runtime.scheduling.request import Request


@dataclass(frozen=True)
class Wait:
    """`asker_id` is the request that it was asked for first; it may have left. At least one request waits."""

    asker_id: int
    requests: dict[int, Request]


class GrammarWaits:
    """Waits by the key of the grammar."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._waits: dict[str, Wait] = {}

    @property
    def asked(self) -> dict[str, int]:
        """Of each grammar that is neither answered nor given up, the request that it was asked for."""
        return {key: wait.asker_id for key, wait in self._waits.items()}

    def wait(self, request: Request, key: str, grammar: GrammarSpec) -> None:
        wait = self._waits.get(key)
        if wait is None:
            wait = self._waits[key] = Wait(request.request_id, {})
            self._out.send("grammar", CompileGrammar(request_id=request.request_id, key=key, grammar=grammar))
        wait.requests[request.request_id] = request

    def answered(self, message: GrammarReady | GrammarFailed) -> list[Request]:
        """The requests that waited for it, in the order in which they came. None if it answers what was given up."""
        if self._waits.get(message.key) is None or self._waits[message.key].asker_id != message.request_id:
            return []
        return list(self._waits.pop(message.key).requests.values())

    def leave(self, request: Request) -> None:
        """The request has ended; it may have waited."""
        key = request.grammar_key
        wait = None if key is None else self._waits.get(key)
        if key is None or wait is None or wait.requests.pop(request.request_id, None) is None or wait.requests:
            return
        del self._waits[key]
        self._out.send("grammar", GrammarUnwanted(key=key))

    def num_waiting(self) -> int:
        return sum(len(wait.requests) for wait in self._waits.values())

    def is_awaited_by(self, request: Request) -> bool:
        return any(request.request_id in wait.requests for wait in self._waits.values())
