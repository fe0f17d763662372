"""Every API backend answers, counts and fails in the same way, whichever package it is built on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import frontend as sgl
from frontend.backend import Prompt, Usage
from frontend.errors import BackendError, Overloaded, ServerFailed, StreamBroken, TimedOut, Unreachable, VariableFailed
from frontend.loop import shared_loop
from frontend.retry import Retry
from frontend.sampling import DEFAULTS
from tests.frontend.backends.api_server import DEADLINE_S, Answer, ApiServer
from tests.frontend.backends.wires import NUM_CACHED_TOKENS, NUM_COMPLETION_TOKENS, NUM_PROMPT_TOKENS, OF_THE_PACKAGES, Wire

NUM_TRIES = 3
AT_ONCE = Retry(num_tries=NUM_TRIES, first_pause_s=0.0)

MakeBackend = Callable[..., Any]

pytestmark = OF_THE_PACKAGES


@sgl.function
def question(s: Any) -> None:
    s += sgl.system("Be short.")
    s += sgl.user("Why?")
    s += sgl.assistant(sgl.gen("answer", max_tokens=16))


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Any]]:
    """One of each sort is enough, because a backend keeps nothing of a program; making one takes long."""
    made: dict[str, Any] = {}
    yield made
    for backend in made.values():
        backend.shutdown()


@pytest.fixture
def backend(wire: Wire, api: ApiServer, backends: dict[str, Any]) -> MakeBackend:
    def make(url: str = api.url, **options: Any) -> Any:
        key = repr((type(wire), url, options))
        if key not in backends:
            backends[key] = wire.backend(url, **{"retry": AT_ONCE, **options})
        backends[key].token_usage.reset()
        return backends[key]

    return make


def test_it_answers_and_counts(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.answer("Because."))
    asked = backend()
    state = question.run(backend=asked)
    assert state["answer"] == "Because."
    usage = state.usage()
    assert (usage.num_requests, usage.num_prompt_tokens, usage.num_completion_tokens, usage.num_cached_tokens) == (
        1,
        NUM_PROMPT_TOKENS,
        NUM_COMPLETION_TOKENS,
        NUM_CACHED_TOKENS,
    )
    meta_info = state.get_meta_info("answer")
    assert meta_info["finish_reason"]["type"] == "stop"
    assert meta_info["completion_tokens"] == NUM_COMPLETION_TOKENS
    assert (asked.token_usage.prompt_tokens, asked.token_usage.completion_tokens) == (NUM_PROMPT_TOKENS, NUM_COMPLETION_TOKENS)
    asked.token_usage.reset()
    assert asked.token_usage.prompt_tokens == asked.token_usage.completion_tokens == 0


def test_it_streams_and_counts(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.stream("Be", "cause", "."))
    asked = backend()
    state = question.run(backend=asked, stream=True)
    assert "".join(state.text_iter("answer")) == "Because."
    assert state.error() is None
    assert state.usage().num_prompt_tokens == NUM_PROMPT_TOKENS
    assert state.usage().num_completion_tokens == NUM_COMPLETION_TOKENS
    assert asked.token_usage.completion_tokens == NUM_COMPLETION_TOKENS
    assert state.get_meta_info("answer")["finish_reason"]["type"] == "stop"


def test_each_piece_is_passed_on(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.stream("Be", "cause", "."))
    asked = backend()
    prompt = Prompt(text="Why?", messages=({"role": "user", "content": "Why?"},), role="assistant")

    async def pieces() -> list[str]:
        return [piece.text async for piece in asked.stream(prompt, DEFAULTS) if piece.text]

    assert shared_loop().run(pieces()) == ["Be", "cause", "."]


def test_an_empty_stream_is_an_empty_answer(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.stream())
    state = question.run(backend=backend(), stream=True)
    assert "".join(state.text_iter("answer")) == ""
    assert state.error() is None
    assert state.usage().num_completion_tokens == NUM_COMPLETION_TOKENS


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("is_streaming", [False, True])
def test_what_may_pass_is_tried_again(
    status: int, is_streaming: bool, wire: Wire, api: ApiServer, backend: MakeBackend
) -> None:
    refusal = wire.refusal(status, Retry_After="0")
    api.will(refusal, refusal, wire.stream("Fine.") if is_streaming else wire.answer("Fine."))
    state = question.run(backend=backend(), stream=is_streaming)
    assert "".join(state.text_iter("answer")) == "Fine."
    assert len(api.requests) == NUM_TRIES


@pytest.mark.parametrize(("status", "expected"), [(429, Overloaded), (500, ServerFailed), (503, Overloaded)])
def test_what_does_not_pass_fails_in_the_end(
    status: int, expected: type[BackendError], wire: Wire, api: ApiServer, backend: MakeBackend
) -> None:
    api.will(wire.refusal(status))
    state = question.run(backend=backend())
    error = state.error()
    assert type(error) is expected
    assert error.status == status
    assert "not now" in str(error)
    assert len(api.requests) == NUM_TRIES
    with pytest.raises(VariableFailed, match=r"'answer'.*not now"):
        state["answer"]


def test_the_pause_that_is_asked_for_is_kept(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.refusal(429, Retry_After="7"))
    error = question.run(backend=backend(retry=Retry(num_tries=1))).error()
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 7.0
    assert AT_ONCE.pause_s(1, error) == 7.0


def test_a_pause_that_is_too_long_is_not_waited_for(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.refusal(429, Retry_After="86400"))
    assert isinstance(question.run(backend=backend()).error(), Overloaded)
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_mistake_is_not_tried_again(status: int, wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.refusal(status))
    error = question.run(backend=backend()).error()
    assert type(error) is BackendError
    assert error.status == status
    assert len(api.requests) == 1


@pytest.mark.parametrize("is_streaming", [False, True])
def test_no_answer_in_time_is_tried_again(is_streaming: bool, wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(hangs=True))
    twice = Retry(num_tries=2, first_pause_s=0.0)
    error = question.run(backend=backend(timeout=0.2, retry=twice), stream=is_streaming).error()
    assert type(error) is TimedOut
    assert len(api.requests) == 2


def test_nobody_there_is_tried_again(wire: Wire, backend: MakeBackend) -> None:
    with ApiServer() as gone:
        pass
    assert type(question.run(backend=backend(gone.url)).error()) is Unreachable


def test_no_answer_is_asked_for_again_by_nobody_else(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(drops=True))
    assert type(question.run(backend=backend()).error()) is Unreachable
    assert len(api.requests) == NUM_TRIES


def test_an_answer_that_breaks_is_asked_for_again(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(wire.whole("x"), breaks=True), wire.answer("Fine."))
    assert question.run(backend=backend())["answer"] == "Fine."
    assert len(api.requests) == 2


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_breaks_before_its_text_is_asked_for_again(
    breaks: bool, wire: Wire, api: ApiServer, backend: MakeBackend
) -> None:
    api.will(Answer(events=wire.opening(), breaks=breaks), wire.stream("Fine."))
    state = question.run(backend=backend(), stream=True)
    assert "".join(state.text_iter("answer")) == "Fine."
    assert len(api.requests) == 2


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_breaks_in_its_text_is_an_error(breaks: bool, wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(events=[*wire.opening(), wire.event("Be")], breaks=breaks))
    state = question.run(backend=backend(), stream=True)
    assert type(state.error()) is StreamBroken
    assert state.text().endswith("Be"), "what was seen stays"
    assert len(api.requests) == 1


def test_an_error_before_the_text_of_a_stream_is_tried_again(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(events=[*wire.opening(), wire.error_event("boom")]), wire.stream("Fine."))
    state = question.run(backend=backend(), stream=True)
    assert "".join(state.text_iter("answer")) == "Fine."


def test_an_error_in_the_text_of_a_stream_is_the_programs(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(events=[*wire.opening(), wire.event("Be"), wire.error_event("boom")]))
    error = question.run(backend=backend(), stream=True).error()
    assert isinstance(error, BackendError)
    assert "boom" in str(error)
    assert len(api.requests) == 1


@pytest.mark.parametrize("is_streaming", [False, True])
def test_cancelling_ends_the_request(is_streaming: bool, wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(Answer(events=[*wire.opening(), wire.event("Be")] if is_streaming else None, hangs=True))
    asked = backend()

    async def main() -> None:
        waiting = asyncio.ensure_future(question.run_async(backend=asked, stream=is_streaming))
        assert await asyncio.to_thread(api.asked.wait, DEADLINE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    assert api.aborted.wait(DEADLINE_S)


def test_it_can_be_used_after_it_was_shut_down(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.answer("Fine."))
    asked = backend()
    asked.shutdown()
    assert question.run(backend=asked)["answer"] == "Fine."


def test_all_of_a_batch_is_asked_at_once_and_counted(wire: Wire, api: ApiServer, backend: MakeBackend) -> None:
    api.will(wire.answer("Fine."))
    asked = backend()
    states = question.run_batch([{}] * 20, backend=asked)
    assert sum((state.usage() for state in states), Usage()).num_requests == len(api.requests) == 20
    assert asked.token_usage.prompt_tokens == 20 * NUM_PROMPT_TOKENS
