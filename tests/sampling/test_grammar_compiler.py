"""The compiler's processes: whatever happens in one costs one grammar its answer, and the next is compiled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from runtime.config import GrammarConfig
from runtime.messages import GrammarCompiled, Message
from runtime.params import GrammarSpec
from runtime.sampling import grammar_compiler, grammar_process
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
        ("cpu", 400, False, "30 s"),
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
        assert (error.failure.status, error.failure.retry_after, error.is_lasting) == (503, 1, False)
        assert process.pid is None

    asyncio.run(scenario())


class Compiling:
    """A compiler with real processes, and its answers."""

    def __init__(self, vocabulary: GrammarVocabulary, config: GrammarConfig, module: str) -> None:
        self.store = GrammarStore(lambda: vocabulary, 2**24)
        self.compiler = ProcessCompiler(self.store, config, module)
        self.answers: asyncio.Queue[Message] = asyncio.Queue()
        self.compiler.start(self.answers.put_nowait)

    def submit(self, order: str) -> None:
        self.compiler.submit(order, GrammarSpec("regex", order))

    async def begun(self, keys: list[str]) -> None:
        """Until they have got a process."""
        while any(self.compiler._open[key].begun_s is None for key in keys):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)

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
            stage.submit(order)
        assert [(await stage.answer()).key for _ in range(3)] == ["one", "segfault", "two"]
        await stage.compiler.stop()
        assert stage.answers.empty(), "what is not compiled is not answered"

    run(scenario())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_dropped_does_not_delay_the_next(
    vocabulary: GrammarVocabulary, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """As many hang as there are processes, and more wait: without the drops nothing would ever be answered again."""

    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(grammar_compile_timeout=600.0), BAD_CHILD)
        hanging = [f"hang {number}" for number in range(NUM_PROCESSES + 10)]
        for order in hanging:
            stage.submit(order)
        stage.submit("next")
        await stage.begun(hanging[:NUM_PROCESSES])
        for key in hanging:
            stage.compiler.drop(key)
        assert (await stage.answer()).key == "next"
        assert stage.answers.empty()
        await stage.compiler.stop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 120))


def test_what_is_wanted_again_goes_on(vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped while it is compiled, and submitted again before its process is killed: one process compiles it once."""
    monkeypatch.setattr(grammar_compiler, "SPARED_S", 0.2)  # it takes 0.5

    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(grammar_compile_timeout=60.0), BAD_CHILD)
        stage.submit("slow")
        await stage.begun(["slow"])
        for _ in range(3):
            stage.compiler.drop("slow")
            stage.submit("slow")
        assert len(stage.compiler._open) == 1
        assert (await stage.answer()).key == "slow"
        stage.submit("next")
        assert (await stage.answer()).key == "next"
        assert stage.answers.empty()
        await stage.compiler.stop()

    run(scenario())


def test_a_new_listener_ends_what_the_old_one_wanted(vocabulary: GrammarVocabulary) -> None:
    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(grammar_compile_timeout=600.0), BAD_CHILD)
        for order in ("hang 1", "hang 2", "old"):
            stage.submit(order)
        await stage.begun(["hang 1", "hang 2"])
        answers: asyncio.Queue[Message] = asyncio.Queue()
        stage.compiler.start(answers.put_nowait)
        stage.submit("new")
        message = await answers.get()
        assert isinstance(message, GrammarCompiled)
        assert message.key == "new"
        assert answers.empty()
        assert stage.answers.empty()
        await stage.compiler.stop()

    run(scenario())


def test_a_bug_in_the_compiler_is_answered(
    vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        stage = Compiling(vocabulary, GrammarConfig(), BAD_CHILD)
        monkeypatch.setattr(GrammarProcess, "compile", None)
        stage.submit("one")
        message = await stage.answer()
        assert message.failure is not None
        assert (message.failure.status, message.is_lasting) == (500, False)
        await stage.compiler.stop()

    run(scenario())
    assert "a grammar was not compiled" in caplog.text


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
