"""Programs in event loops: awaited, streamed, cancelled; and async functions, wherever they are run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import frontend as sgl
from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.errors import BackendError, ProgramError, VariableFailed
from tests.frontend.fake_server import FakeServer


@sgl.function
def question(s: Any, text: str) -> str:
    s += "Q: " + text + "\nA:" + sgl.gen("answer", stop="\n")
    return str(s["answer"])


@sgl.function
async def two_questions(s: Any, text: str) -> str:
    s += text + sgl.gen("first")
    first = await s.get_var_async("first")
    s += " so" + sgl.gen("second")
    await s
    assert s["second"] == first
    return str(s.text())


def test_a_program_is_awaited(backend: RuntimeEndpoint) -> None:
    async def main() -> None:
        state = await question.run_async("Why?", backend=backend)
        assert state["answer"] == state.ret_value == " fine"
        assert state.error() is None

    asyncio.run(main())


def test_the_text_of_a_program_is_iterated_over(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: " one two"

    async def main() -> None:
        state = question.run_async("Why?", backend=backend, stream=True)
        assert "".join([piece async for piece in state]) == "Q: Why?\nA: one two"
        state = question.run_async("Why?", backend=backend, stream=True)
        pairs = [pair async for pair in state.text_async_iter("answer", return_meta_data=True)]
        assert "".join(piece for piece, _ in pairs) == " one two"
        assert pairs[-1][1]["completion_tokens"] == 2

    asyncio.run(main())


def test_a_program_that_does_not_stream_is_iterated_over_in_one_piece(backend: RuntimeEndpoint) -> None:
    async def main() -> None:
        state = question.run_async("Why?", backend=backend)
        assert [piece async for piece in state.text_async_iter("answer")] == [" fine"]

    asyncio.run(main())


def test_a_sync_state_can_be_iterated_over_in_a_loop(backend: RuntimeEndpoint) -> None:
    async def main() -> None:
        state = question.run("Why?", backend=backend, stream=True)
        assert "".join([piece async for piece in state.text_async_iter("answer")]) == " fine"

    asyncio.run(main())


def test_an_async_function_awaits_its_values(backend: RuntimeEndpoint) -> None:
    async def main() -> None:
        state = await two_questions.run_async("Well", backend=backend)
        assert state.ret_value == "Well fine so fine"

    asyncio.run(main())


def test_an_async_function_runs_from_sync_code(backend: RuntimeEndpoint) -> None:
    assert two_questions.run("Well", backend=backend).ret_value == "Well fine so fine"
    states = two_questions.run_batch([("a",), ("b",)], backend=backend)
    assert [state.ret_value for state in states] == ["a fine so fine", "b fine so fine"]


def test_an_async_function_streams(backend: RuntimeEndpoint) -> None:
    state = two_questions.run("Well", backend=backend, stream=True)
    assert "".join(state.text_iter()) == "Well fine so fine"


def test_an_async_function_forks(backend: RuntimeEndpoint) -> None:
    @sgl.function
    async def program(s: Any) -> None:
        s += "prefix"
        forks = s.fork(2)
        forks += sgl.gen("x")
        forks.join()
        assert await s.get_var_async("x") == [" fine", " fine"]

    async def main() -> None:
        state = await program.run_async(backend=backend)
        assert state.error() is None

    asyncio.run(main())


def test_reading_without_await_is_an_error_and_not_a_deadlock(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()

    @sgl.function
    async def program(s: Any) -> None:
        s += sgl.gen("x")
        s["x"]

    with pytest.raises(ProgramError, match="await"):
        program.run(backend=backend)

    async def main() -> None:
        state = await program.run_async(backend=backend)
        assert isinstance(state.error(), ProgramError)

    asyncio.run(main())


def test_a_failure_is_in_the_awaited_state(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.refuse = lambda body: (500, "boom")

    async def main() -> None:
        state = await question.run_async("Why?", backend=backend)
        assert isinstance(state.error(), BackendError), "the first cause, not what the function met because of it"
        with pytest.raises(VariableFailed, match="boom"):
            state["answer"]

    asyncio.run(main())


@pytest.mark.parametrize("program", [question, two_questions])
def test_cancelling_the_wait_aborts_the_request(program: Any, server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()

    async def main() -> None:
        waiting = asyncio.ensure_future(program.run_async("Why?", backend=backend))
        await asyncio.to_thread(server.wait_until_open, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(server.wait_until_open, 0)

    asyncio.run(main())
    assert server.num_aborted == 1


def test_a_batch_is_awaited(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.answer = lambda body: body["text"][-4:]

    async def main() -> None:
        states = await question.run_batch_async([{"text": str(number)} for number in range(5)], backend=backend)
        assert [state["answer"] for state in states] == [f"{number}\nA:" for number in range(5)]
        assert await question.run_batch_async([], backend=backend) == []

    asyncio.run(main())


def test_cancelling_a_batch_aborts_its_requests(server: FakeServer, backend: RuntimeEndpoint) -> None:
    server.hold()

    async def main() -> None:
        waiting = asyncio.ensure_future(question.run_batch_async([{"text": "x"}] * 3, backend=backend))
        await asyncio.to_thread(server.wait_until_open, 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(server.wait_until_open, 0)

    asyncio.run(main())
    assert server.num_aborted == 3
