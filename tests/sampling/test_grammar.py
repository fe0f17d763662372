"""The grammar actor answers every request for a constraint, and says that there are none in this build."""

from __future__ import annotations

import asyncio

from runtime.actors.actor import Ref
from runtime.actors.mailbox import Envelope, Mailbox
from runtime.messages import CompileGrammar, GrammarFailed
from runtime.params import GrammarSpec
from runtime.sampling.grammar import Grammar


def test_each_key_is_refused() -> None:
    mailbox = Mailbox("scheduler")
    grammar = Grammar(Ref("grammar", mailbox))
    for request_id, key in enumerate(("a", "b", "a")):
        message = CompileGrammar(request_id=request_id, key=key, grammar=GrammarSpec("regex", "x"))
        asyncio.run(grammar.handle(Envelope("tokenizer", message)))
    answers = [envelope.message for envelope in mailbox.clear()]
    assert [answer.key for answer in answers if isinstance(answer, GrammarFailed)] == ["a", "b", "a"]
    assert isinstance(answers[0], GrammarFailed)
    failure = answers[0].failure
    assert (failure.status, failure.code, failure.param) == (400, "unsupported_parameter", "response_format")
