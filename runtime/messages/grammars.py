"""Scheduler ⇄ Grammar: constraints on outputs, compiled before a request may run."""

from __future__ import annotations

from runtime.errors import Failure
from runtime.messages.message import Message
from runtime.params import GrammarSpec


class CompileGrammar(Message, frozen=True, kw_only=True):
    """Scheduler → Grammar: `request_id` is the first to wait for `key`. Answered once, unless it is unwanted before."""

    request_id: int
    key: str
    grammar: GrammarSpec


class GrammarUnwanted(Message, frozen=True, kw_only=True):
    """Scheduler → Grammar: the last request that waited for `key` has left. Its answer may be on its way."""

    key: str


class GrammarReady(Message, frozen=True, kw_only=True):
    """Grammar → Scheduler: answers the `CompileGrammar` of `request_id`."""

    request_id: int
    key: str


class GrammarFailed(Message, frozen=True, kw_only=True):
    """Grammar → Scheduler: answers the `CompileGrammar` of `request_id`. Every request that waits for `key` fails."""

    request_id: int
    key: str
    failure: Failure


class GrammarCompiled(Message, frozen=True, kw_only=True):
    """The compiler's processes → Grammar: without a failure the grammar is in the store."""

    key: str
    failure: Failure | None = None
    is_lasting: bool = True
    """It would fail again; not so if the machine is to blame."""
