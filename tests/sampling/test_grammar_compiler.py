"""The compiler's processes: whatever happens in one costs one grammar its answer, and the next is compiled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine

import pytest
import uvloop

from runtime.config import GrammarConfig
from runtime.messages import GrammarCompiled, Message
from runtime.params import GrammarSpec
from runtime.sampling import grammar_process
from runtime.sampling.grammar_backend import GrammarVocabulary
from runtime.sampling.grammar_compiler import NUM_PROCESSES, ProcessCompiler
from runtime.sampling.grammar_frames import Setup
from runtime.sampling.grammar_process import CompileFailed, GrammarProcess
from runtime.sampling.grammar_store import GrammarStore

BAD_CHILD = "tests.sampling.bad_child"


def setup(vocabulary: GrammarVocabulary, cpu_s: float = 30.0) -> Setup:
    return Setup(vocabulary=vocabulary, choice="auto", cpu_s=cpu_s, memory_bytes=2**30)


async def failure_of(process: GrammarProcess, order: str) -> CompileFailed:
    with pytest.raises(CompileFailed) as raised:
        await process.compile(GrammarSpec("regex", order))
    return raised.value


@pytest.mark.parametrize(
    ("order", "status", "is_lasting", "problem"),
    [
        ("segfault", 400, True, "too complex"),
        ("memory", 400, True, "1024 MB"),
        ("cpu", 400, True, "30 s"),
        ("lie", 400, True, "too complex"),
        ("killed", 503, False, "ended from outside"),
    ],
)
def test_the_end_of_a_child_is_one_failure(
    vocabulary: GrammarVocabulary, order: str, status: int, is_lasting: bool, problem: str
) -> None:
    async def scenario() -> None:
        process = GrammarProcess(setup(vocabulary), BAD_CHILD)
        error = await failure_of(process, order)
        assert (error.failure.status, error.is_lasting) == (status, is_lasting)
        assert problem in error.failure.message
        assert "refused by" in (await failure_of(process, "fine")).failure.message
        await process.stop()

    asyncio.run(scenario())


def test_a_child_serves_many_and_ends_with_its_owner(vocabulary: GrammarVocabulary) -> None:
    async def scenario() -> int:
        process = GrammarProcess(setup(vocabulary), BAD_CHILD)
        assert process.pid is None
        first, second = await failure_of(process, "one"), await failure_of(process, "two")
        assert first.failure.message == second.failure.message == f"refused by {process.pid}"
        pid = process.pid
        await process.stop()
        await process.stop()
        assert pid is not None
        return pid

    pid = asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_ends_while_idle_is_replaced(vocabulary: GrammarVocabulary) -> None:
    async def scenario() -> None:
        process = GrammarProcess(setup(vocabulary), BAD_CHILD)
        await failure_of(process, "one")
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert process._process is not None
        await process._process.wait()
        assert "refused by" in (await failure_of(process, "two")).failure.message
        assert process.pid != first
        await process.stop()

    for loop_factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scenario())


def test_a_child_that_hangs_is_killed(vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_process, "START_S", 0.0)

    async def scenario() -> None:
        process = GrammarProcess(setup(vocabulary, cpu_s=0.1), BAD_CHILD)
        error = await failure_of(process, "hang")
        assert (error.failure.status, error.is_lasting) == (400, True)
        assert process.pid is None

    asyncio.run(scenario())


class Compiling:
    """A compiler with real processes, and its answers."""

    def __init__(self, vocabulary: GrammarVocabulary, config: GrammarConfig, module: str) -> None:
        self.store = GrammarStore(lambda: vocabulary, 2**24)
        self.compiler = ProcessCompiler(self.store, config, module)
        self.answers: asyncio.Queue[Message] = asyncio.Queue()
        self.compiler.start(self.answers.put_nowait)

    async def answer(self) -> GrammarCompiled:
        message = await self.answers.get()
        assert isinstance(message, GrammarCompiled)
        return message


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


def test_one_that_hangs_holds_up_no_other(vocabulary: GrammarVocabulary) -> None:
    assert NUM_PROCESSES > 1

    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(grammar_compile_timeout=60.0), BAD_CHILD)
        for order in ("hang", "one", "segfault", "two"):
            stage.compiler.submit(order, GrammarSpec("regex", order))
        assert [(await stage.answer()).key for _ in range(3)] == ["one", "segfault", "two"]
        await stage.compiler.stop()
        last = await stage.answer()
        assert (last.key, last.is_lasting) == ("hang", False)

    run(scenario())


def test_grammars_end_up_in_the_store(vocabulary: GrammarVocabulary) -> None:
    """The real child; bombs are answered with 400, and their neighbours are compiled."""
    sources = {
        "schema": GrammarSpec("json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        "tower": GrammarSpec("json_schema", '{"allOf":[' * 5000 + "{}" + "]}" * 5000),
        "loop": GrammarSpec("json_schema", '{"$ref": "#"}'),
        "regex": GrammarSpec("regex", "[a-z]+"),
        "bomb": GrammarSpec("regex", "((a{1,99}){1,99}){1,99}"),
        "object": GrammarSpec("json_object", ""),
    }

    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(grammar_compile_timeout=20.0), grammar_process.MODULE)
        for key, grammar in sources.items():
            stage.compiler.submit(key, grammar)
        answers = {answer.key: answer for answer in [await stage.answer() for _ in sources]}
        await stage.compiler.stop()
        for key in ("schema", "regex", "object"):
            assert answers[key].failure is None
            assert stage.compiler.has(key)
            stage.store.open(key)
        for key in ("tower", "loop", "bomb"):
            failure = answers[key].failure
            assert failure is not None
            assert (failure.status, answers[key].is_lasting) == (400, True)

    run(scenario())
