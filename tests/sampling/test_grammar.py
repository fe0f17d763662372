"""The grammar actor: one compilation per key, an answer for every wait, failures remembered unless the machine was to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from runtime.actors.actor import Ref
from runtime.actors.mailbox import Envelope, Mailbox
from runtime.errors import Failure
from runtime.messages import CompileGrammar, GrammarCompiled, GrammarFailed, GrammarReady, GrammarUnwanted, Message
from runtime.params import GrammarSpec
from runtime.sampling.grammar import MAX_FAILURES, Grammar

FAILURE = Failure(status=400, type="invalid_request_error", message="no")


class ScriptedCompiler:
    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.dropped: list[str] = []
        self.kept: set[str] = set()
        self.is_stopped = False

    def start(self, tell: Callable[[Message], None]) -> None:
        raise AssertionError("the assembly starts it")

    def submit(self, key: str, grammar: GrammarSpec) -> None:
        self.submitted.append(key)

    def has(self, key: str) -> bool:
        return key in self.kept

    def drop(self, key: str) -> None:
        self.dropped.append(key)

    async def stop(self) -> None:
        self.is_stopped = True


class Stage:
    def __init__(self, *, has_compiler: bool = True) -> None:
        self.scheduler = Mailbox("scheduler")
        self.compiler = ScriptedCompiler()
        self.actor = Grammar(Ref("grammar", self.scheduler), self.compiler if has_compiler else None)

    def tell(self, *messages: Message) -> list[Message]:
        """What the scheduler is told then."""
        for message in messages:
            asyncio.run(self.actor.handle(Envelope("somebody", message)))
        return [envelope.message for envelope in self.scheduler.clear()]


def wanted(key: str, request_id: int = 1) -> CompileGrammar:
    return CompileGrammar(request_id=request_id, key=key, grammar=GrammarSpec("regex", "x"))


def failed(key: str, request_id: int = 1) -> GrammarFailed:
    return GrammarFailed(request_id=request_id, key=key, failure=FAILURE)


def test_without_a_compiler_each_key_is_refused() -> None:
    answers = Stage(has_compiler=False).tell(wanted("a", 1), wanted("b", 2), GrammarUnwanted(key="b"), wanted("a", 3))
    refusals = [answer for answer in answers if isinstance(answer, GrammarFailed)]
    assert [(answer.key, answer.request_id) for answer in refusals] == [("a", 1), ("b", 2), ("a", 3)]
    assert {(answer.failure.status, answer.failure.code) for answer in refusals} == {(400, "unsupported_parameter")}


def test_a_grammar_is_compiled_and_announced_to_who_asked() -> None:
    stage = Stage()
    assert stage.tell(wanted("a", 1), wanted("b", 2)) == []
    assert stage.compiler.submitted == ["a", "b"]
    assert stage.tell(GrammarCompiled(key="a")) == [GrammarReady(request_id=1, key="a")]


def test_a_kept_grammar_is_ready_at_once() -> None:
    stage = Stage()
    stage.compiler.kept.add("a")
    assert stage.tell(wanted("a")) == [GrammarReady(request_id=1, key="a")]
    assert stage.compiler.submitted == []


@pytest.mark.parametrize(("is_lasting", "submitted"), [(True, ["a"]), (False, ["a", "a"])])
def test_a_failure_is_remembered_if_it_would_come_again(is_lasting: bool, submitted: list[str]) -> None:
    stage = Stage()
    answers = stage.tell(wanted("a", 1), GrammarCompiled(key="a", failure=FAILURE, is_lasting=is_lasting), wanted("a", 2))
    assert answers == ([failed("a", 1), failed("a", 2)] if is_lasting else [failed("a", 1)])
    assert stage.compiler.submitted == submitted


def test_a_dropped_grammar_is_compiled_again() -> None:
    stage = Stage()
    stage.tell(wanted("a"), GrammarCompiled(key="a"), wanted("a"))
    assert stage.compiler.submitted == ["a", "a"]


def test_what_nobody_wants_is_dropped_and_not_answered() -> None:
    stage = Stage()
    assert stage.tell(wanted("a", 1), wanted("b", 2), GrammarUnwanted(key="a"), GrammarUnwanted(key="other")) == []
    assert stage.compiler.dropped == ["a"]
    assert stage.tell(GrammarCompiled(key="a"), GrammarCompiled(key="b")) == [GrammarReady(request_id=2, key="b")]


def test_what_is_wanted_again_is_compiled_again() -> None:
    stage = Stage()
    assert stage.tell(wanted("a", 1), GrammarUnwanted(key="a"), wanted("a", 2)) == []
    assert stage.compiler.submitted == ["a", "a"]
    # The answer to the first was on its way: it will do, and the second need not go on.
    stage.compiler.dropped.clear()
    answers = stage.tell(GrammarCompiled(key="a", failure=FAILURE, is_lasting=False))
    assert answers == [failed("a", 2)]
    assert stage.compiler.dropped == ["a"]


@pytest.mark.parametrize("failure", [None, FAILURE])
def test_a_late_answer_is_nobodys_but_a_failure_is_remembered(failure: Failure | None) -> None:
    stage = Stage()
    assert stage.tell(GrammarCompiled(key="old", failure=failure)) == []
    assert stage.tell(wanted("old")) == ([] if failure is None else [failed("old")])


def test_failures_do_not_pile_up() -> None:
    stage = Stage()
    for number in range(MAX_FAILURES + 1):
        stage.tell(GrammarCompiled(key=str(number), failure=FAILURE))
    stage.tell(wanted("0"), wanted("1"))
    assert stage.compiler.submitted == ["0"]


def test_the_compiler_stops_with_the_actor() -> None:
    stage = Stage()
    asyncio.run(stage.actor.stopped())
    assert stage.compiler.is_stopped
