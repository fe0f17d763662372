"""What each API is sent, field by field; and what backends refuse because an API has no place for it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import frontend as sgl
from frontend.errors import ProgramError, Unsupported
from frontend.retry import Retry
from tests.frontend.backends.api_server import ApiServer
from tests.frontend.backends.wires import (
    NUM_PROMPT_TOKENS,
    OF_THE_PACKAGES,
    OPENAI_USAGE,
    WIRES,
    AnthropicWire,
    ChatWire,
    CompletionWire,
    GeminiWire,
    LiteLLMWire,
    VertexWire,
    Wire,
)

pytestmark = OF_THE_PACKAGES

PNG = b"\x89PNG\r\n\x1a\n"
PNG_BASE64 = base64.b64encode(PNG).decode()
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}

SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "Why?"}


@sgl.function
def question(s: Any) -> None:
    s += sgl.system("Be short.") + sgl.user("Why?")
    s += sgl.assistant(sgl.gen("answer", max_tokens=16, temperature=0.5, top_p=0.9, stop=["a", "b"]))


@sgl.function
def plain(s: Any) -> None:
    s += "Once upon" + sgl.gen("more", max_tokens=4)


@sgl.function
def middle(s: Any) -> None:
    s += sgl.user("Why?") + sgl.assistant("Because " + sgl.gen("answer"))


@sgl.function
def picture(s: Any) -> None:
    s += sgl.user(sgl.image(PNG) + "What is it?") + sgl.assistant(sgl.gen("answer"))


@sgl.function
def person(s: Any) -> None:
    s += sgl.user("Who?") + sgl.assistant(sgl.gen("answer", json_schema=SCHEMA))


@pytest.fixture
def sends(api: ApiServer) -> Iterator[Callable[..., Any]]:
    """Runs a program, and gives the body of its one request."""
    made: list[Any] = []

    def run(program: Any, wire: Wire, **options: Any) -> Any:
        api.will(wire.answer("Fine."))
        made.append(wire.backend(api.url, retry=Retry(num_tries=1)))
        state = program.run(backend=made[-1], **options)
        assert state.error() is None
        assert len(api.requests) == 1
        return api.requests[0].body

    yield run
    for backend in made:
        backend.shutdown()


def test_openai_is_sent_what_sglang_sends(sends: Callable[..., Any], api: ApiServer) -> None:
    body = sends(question, ChatWire(), frequency_penalty=0.5)
    assert body == {
        "model": "gpt-4o-mini",
        "messages": [SYSTEM, USER],
        "max_tokens": 16,
        "stop": ["a", "b"],
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.0,
    }
    assert api.requests[0].path == "/v1/chat/completions"
    assert api.requests[0].headers["Authorization"] == "Bearer key"


def test_a_completion_model_is_sent_text(sends: Callable[..., Any], api: ApiServer) -> None:
    body = sends(plain, CompletionWire())
    assert (body["prompt"], body["max_tokens"], "stop" in body) == ("Once upon", 4, False)
    assert api.requests[0].path == "/v1/completions"


def test_openai_streams_with_usage(api: ApiServer) -> None:
    wire = ChatWire()
    api.will(wire.stream("Fine."))
    assert question.run(backend=wire.backend(api.url), stream=True).error() is None
    assert api.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("model", ["o1", "o3-mini", "gpt-5-nano"])
def test_reasoning_models_have_another_limit(model: str, api: ApiServer) -> None:
    api.will(ChatWire().answer("Fine."))
    assert question.run(backend=sgl.OpenAI(model, base_url=api.url, api_key="key")).error() is None
    assert api.requests[0].body["max_completion_tokens"] == 16
    assert "max_tokens" not in api.requests[0].body


def test_azure_is_asked_in_its_way(api: ApiServer) -> None:
    api.will(ChatWire().answer("Fine."))
    azure = sgl.OpenAI("gpt-4o", is_azure=True, azure_endpoint=api.url, api_key="key", api_version="2024-10-21")
    assert question.run(backend=azure)["answer"] == "Fine."
    assert api.requests[0].path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


def test_anthropic_is_sent_the_system_turn_apart(sends: Callable[..., Any], api: ApiServer) -> None:
    assert sends(question, AnthropicWire(), top_k=7) == {
        "model": "claude-x",
        "system": "Be short.",
        "messages": [USER],
        "max_tokens": 16,
        "stop_sequences": ["a", "b"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
    }
    assert api.requests[0].path == "/v1/messages"


def test_anthropic_is_not_sent_defaults(sends: Callable[..., Any]) -> None:
    assert sends(plain, AnthropicWire()) == {
        "model": "claude-x",
        "messages": [{"role": "user", "content": "Once upon"}],
        "max_tokens": 4,
    }


def test_gemini_is_sent_its_form(sends: Callable[..., Any], api: ApiServer) -> None:
    body = sends(question, GeminiWire(), top_k=7, presence_penalty=0.5)
    assert [part["text"] for part in body["systemInstruction"]["parts"]] == ["Be short."]
    assert body["contents"] == [{"role": "user", "parts": [{"text": "Why?"}]}]
    assert body["generationConfig"] == {
        "maxOutputTokens": 16,
        "stopSequences": ["a", "b"],
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 7,
        "presencePenalty": 0.5,
    }
    assert api.requests[0].path == "/v1beta/models/gemini-x:generateContent"
    assert api.requests[0].headers["x-goog-api-key"] == "key"


def test_vertex_is_asked_for_the_project(sends: Callable[..., Any], api: ApiServer) -> None:
    sends(question, VertexWire())
    assert "/projects/project/locations/here/publishers/google/models/gemini-x:generateContent" in api.requests[0].path
    assert api.requests[0].headers["Authorization"] == "Bearer token"


def test_vertex_takes_its_project_from_the_environment(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GCP_PROJECT_ID", raising=False)
    with pytest.raises(ProgramError, match="GCP_PROJECT_ID"):
        sgl.VertexAI("gemini-x")
    monkeypatch.setenv("GCP_PROJECT_ID", "project")
    monkeypatch.setenv("GCP_LOCATION", "there")
    from google.oauth2.credentials import Credentials

    api.will(VertexWire().answer("Fine."))
    backend = sgl.VertexAI("gemini-x", base_url=api.url, credentials=Credentials("token"))
    assert question.run(backend=backend)["answer"] == "Fine."
    assert "/projects/project/locations/there/" in api.requests[0].path
    backend.shutdown()


def test_litellm_is_sent_no_penalties_that_are_none(sends: Callable[..., Any]) -> None:
    assert sends(question, LiteLLMWire()) == {
        "model": "gpt-4o-mini",
        "messages": [SYSTEM, USER],
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["a", "b"],
    }


def test_litellm_knows_the_cost(api: ApiServer) -> None:
    wire = LiteLLMWire()
    for answer, is_streaming in ((wire.answer("Fine."), False), (wire.stream("Fine."), True)):
        api.will(answer)
        usage = question.run(backend=wire.backend(api.url), stream=is_streaming).usage()
        assert usage.cost is not None
        assert 0 < usage.cost < 1e-4
        assert usage.num_prompt_tokens == NUM_PROMPT_TOKENS


def test_litellm_sends_headers(api: ApiServer) -> None:
    api.will(ChatWire().answer("Fine."))
    backend = sgl.LiteLLM("openai/m", api_key="key", base_url=api.url, default_headers={"x-team": "red"}, max_retries=0)
    assert question.run(backend=backend).error() is None
    assert api.requests[0].headers["x-team"] == "red"


@pytest.mark.parametrize("name", ["Anthropic", "Gemini", "LiteLLM"])
def test_the_turn_that_has_begun_is_sent_last(name: str, sends: Callable[..., Any]) -> None:
    body = sends(middle, WIRES[name])
    last = (body.get("messages") or body["contents"])[-1]
    assert last.get("content") == "Because" or last == {"role": "model", "parts": [{"text": "Because"}]}


@pytest.mark.parametrize("is_streaming", [False, True])
def test_openai_chats_can_not_go_on_in_a_turn(is_streaming: bool, api: ApiServer) -> None:
    error = middle.run(backend=ChatWire().backend(api.url), stream=is_streaming).error()
    assert isinstance(error, Unsupported)
    assert isinstance(error, RuntimeError), "as in SGLang"
    assert "num_api_spec_tokens" in str(error)


@pytest.mark.parametrize("name", ["OpenAI chat", "Anthropic", "Gemini", "LiteLLM"])
def test_a_turn_is_asked_for_as_a_whole(name: str, api: ApiServer) -> None:
    @sgl.function(num_api_spec_tokens=64)
    def character(s: Any) -> None:
        s += sgl.user("Make one up.")
        s += sgl.assistant("Name:" + sgl.gen("name", stop="\n") + "\nJob:" + sgl.gen("job", stop="\n"))

    api.will(WIRES[name].answer("Sure!"), WIRES[name].answer("Name: Ada\nJob: countess\n"))
    state = character.run(backend=WIRES[name].backend(api.url))
    assert (state["name"], state["job"]) == (" Ada", " countess")
    assert state.usage().num_requests == len(api.requests) == 2


@pytest.mark.parametrize("name", ["Anthropic", "Gemini", "LiteLLM"])
def test_nothing_is_generated_in_a_users_turn(name: str, api: ApiServer) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.system("Be short.") + sgl.user("Say " + sgl.gen("x"))

    assert isinstance(program.run(backend=WIRES[name].backend(api.url)).error(), Unsupported)


def test_a_picture_is_sent_in_the_form_of_the_api(sends: Callable[..., Any]) -> None:
    url = {"url": f"data:image/jpeg;base64,{PNG_BASE64}"}
    for wire in (ChatWire(), LiteLLMWire()):
        parts = sends(picture, wire)["messages"][0]["content"]
        assert {"type": "image_url", "image_url": url} in parts
    parts = sends(picture, AnthropicWire())["messages"][0]["content"]
    source = {"type": "base64", "media_type": "image/png", "data": PNG_BASE64}
    assert {"type": "image", "source": source} in parts
    parts = sends(picture, GeminiWire())["contents"][0]["parts"]
    assert {"inlineData": {"mime_type": "image/png", "data": PNG_BASE64}} in parts


def test_a_picture_in_plain_text_stands_where_it_was_said(sends: Callable[..., Any]) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "This " + sgl.image(PNG) + " is" + sgl.gen("x")

    content = sends(program, AnthropicWire())["messages"][0]["content"]
    assert [part.get("text", part["type"]) for part in content] == ["This ", "image", " is"]


def test_a_film_is_refused(api: ApiServer) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user(sgl.image(b"no picture") + "What is it?") + sgl.assistant(sgl.gen("x"))

    assert isinstance(program.run(backend=AnthropicWire().backend(api.url)).error(), Unsupported)


def test_a_schema_is_sent(sends: Callable[..., Any]) -> None:
    for wire in (ChatWire(), LiteLLMWire()):
        schema = sends(person, wire)["response_format"]["json_schema"]
        assert (schema["schema"], schema["strict"]) == (SCHEMA, True)
    assert sends(person, AnthropicWire())["output_config"]["format"] == {"type": "json_schema", "schema": SCHEMA}
    config = sends(person, GeminiWire())["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)


def test_what_is_left_out_is_warned_of(wire: Wire, api: ApiServer) -> None:
    api.will(wire.answer("Fine."))
    program = sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant(sgl.gen("x", regex="[0-9]+"))))
    with pytest.warns(UserWarning, match=r"regex='\[0-9\]\+': it is left out"):
        assert program.run(backend=wire.backend(api.url))["x"] == "Fine."


def test_what_must_not_be_left_out_is_refused(wire: Wire, api: ApiServer) -> None:
    program = sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant(sgl.gen("x", ebnf='root ::= "x"'))))
    assert isinstance(program.run(backend=wire.backend(api.url)).error(), Unsupported)


@pytest.mark.parametrize("name", ["OpenAI chat", "Anthropic", "Gemini", "LiteLLM"])
def test_chat_models_do_not_select(name: str, api: ApiServer) -> None:
    program = sgl.function(lambda s: s.__iadd__("x" + sgl.select("x", ["a", "b"])))
    assert isinstance(program.run(backend=WIRES[name].backend(api.url)).error(), Unsupported)


class Letters:
    """A tokenizer whose tokens are characters."""

    eot_token = 7

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


def test_a_choice_is_made_by_logit_bias(api: ApiServer) -> None:
    wire = CompletionWire()
    api.will(*map(wire.answer, "ab"))
    backend = wire.backend(api.url, tokenizer=Letters())
    state = sgl.function(lambda s: s.__iadd__("x" + sgl.select("x", ["ax", "abc", "cab"]))).run(backend=backend)
    assert state["x"] == "abc"
    assert state.get_meta_info("x") == {"scores": [1, 2, 0]}
    first, second = (request.body for request in api.requests)
    assert first["logit_bias"] == {"97": 100, "99": 100}
    assert (first["prompt"], first["max_tokens"], first["temperature"]) == ([120], 1, 0.0)
    assert (second["prompt"], second["logit_bias"]) == ([120, 97], {"120": 100, "98": 100})
    assert state.usage().num_requests == 2
    assert backend.token_usage.completion_tokens == 2 * OPENAI_USAGE["completion_tokens"]


def test_a_token_of_no_choice_is_an_error(api: ApiServer) -> None:
    wire = CompletionWire()
    api.will(wire.answer("?"))
    state = sgl.function(lambda s: s.__iadd__("x" + sgl.select("x", ["a", "b"]))).run(
        backend=wire.backend(api.url, tokenizer=Letters())
    )
    assert "begins none of the choices" in str(state.error())


def test_types_of_completion_models(api: ApiServer) -> None:
    wire = CompletionWire()
    backend = wire.backend(api.url, tokenizer=Letters())
    api.will(wire.answer("42"), wire.answer("Ada"))
    state = sgl.function(lambda s: s.__iadd__("n=" + sgl.gen_int("n") + " s=" + sgl.gen_string("s"))).run(backend=backend)
    assert (state["n"], state["s"]) == ("42", '"Ada"')
    number, text = (request.body for request in api.requests)
    assert number["stop"] == [" "]
    assert number["logit_bias"] == {str(ord(letter)): 100 for letter in " 0123456789\x07"}
    assert (text["prompt"], text["stop"]) == ('n=42 s="', '"')


@pytest.mark.parametrize("name", ["OpenAI chat", "OpenAI completion"])
def test_other_types_are_refused(name: str, api: ApiServer) -> None:
    program = sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant(sgl.gen("x", dtype=float))))
    backend = WIRES[name].backend(api.url)
    assert isinstance(program.run(backend=backend).error(), Unsupported)
    assert isinstance(program.run(backend=backend, stream=True).error(), Unsupported)
