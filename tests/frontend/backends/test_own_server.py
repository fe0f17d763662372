"""OpenAI's and LiteLLM's backends against a real server of ours, with its embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import frontend as sgl
from frontend.errors import BackendError
from tests.e2e.server_process import ServerProcess
from tests.frontend.backends.wires import OF_THE_PACKAGES

pytestmark = OF_THE_PACKAGES


@sgl.function
def capital(s: Any) -> None:
    s += sgl.user("What is the capital of France?")
    s += sgl.assistant(sgl.gen("answer", max_tokens=12, temperature=0))


@pytest.fixture(scope="module")
def chat(callboard: ServerProcess) -> Iterator[Any]:
    backend = sgl.OpenAI("default", base_url=callboard.url + "/v1", api_key="none")
    yield backend
    backend.shutdown()


@pytest.fixture(scope="module")
def completion(callboard: ServerProcess) -> Iterator[Any]:
    backend = sgl.OpenAI("default", is_chat_model=False, base_url=callboard.url + "/v1", api_key="none")
    yield backend
    backend.shutdown()


@pytest.fixture(scope="module")
def litellm(callboard: ServerProcess) -> Any:
    return sgl.LiteLLM("openai/default", base_url=callboard.url + "/v1", api_key="none")


@pytest.mark.parametrize("name", ["chat", "litellm"])
def test_a_chat_is_answered(name: str, request: pytest.FixtureRequest) -> None:
    state = capital.run(backend=request.getfixturevalue(name))
    assert "Paris" in state["answer"]
    assert 0 < state.usage().num_completion_tokens <= 12


@pytest.mark.parametrize("name", ["chat", "litellm"])
def test_a_stream_is_the_same_text(name: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(name)
    streamed = capital.run(backend=backend, stream=True)
    whole = capital.run(backend=backend)
    assert "".join(streamed.text_iter("answer")) == whole["answer"]
    assert streamed.usage().num_completion_tokens == whole.usage().num_completion_tokens


@pytest.mark.parametrize("name", ["chat", "litellm"])
def test_a_mistake_is_said(name: str, request: pytest.FixtureRequest) -> None:
    error = capital.run(backend=request.getfixturevalue(name), top_p=7.0).error()
    assert type(error) is BackendError
    assert error.status == 400
    assert "top_p" in str(error)


def test_a_text_goes_on(completion: Any) -> None:
    @sgl.function
    def count(s: Any) -> None:
        s += "1 2 3 4 5 6" + sgl.gen("more", max_tokens=16, temperature=0, stop=" 9")

    assert count.run(backend=completion)["more"] == " 7 8"


def test_one_call_serves_several_generations(completion: Any) -> None:
    @sgl.function(num_api_spec_tokens=24)
    def count(s: Any) -> None:
        s += "1, 2, 3, 4, 5, 6," + sgl.gen("seven", stop=",", temperature=0) + "," + sgl.gen("eight", stop=",", temperature=0)

    state = count.run(backend=completion)
    assert (state["seven"], state["eight"]) == (" 7", " 8")
    assert state.usage().num_requests == 1


def test_a_choice_is_made_token_by_token(completion: Any) -> None:
    @sgl.function
    def choose(s: Any) -> None:
        s += "The capital of France is" + sgl.select("city", [" Berlin", " Paris", " Parma"])

    state = choose.run(backend=completion)
    assert state["city"] == " Paris"
    scores = state.get_meta_info("city")["scores"]
    assert scores[1] == max(scores) > scores[0]
    assert state.usage().num_requests >= 1


def test_a_number_is_made_of_digits(completion: Any) -> None:
    @sgl.function
    def add(s: Any) -> None:
        s += "2 + 2 = " + sgl.gen_int("sum", max_tokens=3, temperature=0)

    assert add.run(backend=completion)["sum"].strip().isdigit()


def test_a_schema_is_followed(chat: Any) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}

    @sgl.function
    def describe(s: Any) -> None:
        s += sgl.user("How old is Ada?")
        s += sgl.assistant(sgl.gen("answer", max_tokens=32, temperature=0, json_schema=schema))

    assert describe.run(backend=chat)["answer"].replace(" ", "").startswith('{"age":')
