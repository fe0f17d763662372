"""The official `openai` package against the embedded model."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.server_process import ServerProcess

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **arguments: object) -> object:
    return client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=24, **arguments)  # type: ignore[call-overload]


def test_chat_answers(client: openai.OpenAI) -> None:
    reply = ask(client)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_is_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


def test_completions_and_choices(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="default", prompt=["One, two,", "A, B,"], max_tokens=4, n=2, temperature=1.0, seed=7
    )
    again = client.completions.create(
        model="default", prompt=["One, two,", "A, B,"], max_tokens=4, n=2, temperature=1.0, seed=7
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in reply.choices] == [choice.text for choice in again.choices]
    assert reply.choices[0].text != reply.choices[1].text


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="default", prompt="1 2 3 4 5 6", max_tokens=16, temperature=0)
    assert " 9" in plain.choices[0].text
    cut = client.completions.create(model="default", prompt="1 2 3 4 5 6", max_tokens=16, temperature=0, stop=[" 9"])
    assert cut.choices[0].text == plain.choices[0].text.split(" 9")[0]
    assert cut.choices[0].finish_reason == "stop"


def test_models_are_listed(client: openai.OpenAI) -> None:
    (card,) = client.models.list().data
    assert client.models.retrieve(card.id).id == card.id
    assert card.id == "SmolLM2-135M-Instruct"


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-17", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=QUESTION, temperature=-1)  # type: ignore[arg-type]
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="default", prompt="word " * 20_000, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
