"""The OpenAI and Anthropic doors against the embedded model: what the scripted engine can not show."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.server_process import ServerProcess

TEXT = "What is the capital of France?"
QUESTION: Any = [{"role": "user", "content": TEXT}]
GREEDY: Any = {"temperature": 0}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_log_probabilities_of_a_chat(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "default", "messages": QUESTION, "max_tokens": 6, "logprobs": True, "top_logprobs": 3} | GREEDY
    choice = client.chat.completions.create(**arguments).choices[0]
    content: Any = choice.logprobs and choice.logprobs.content
    assert "".join(entry.token for entry in content) == choice.message.content
    for entry in content:
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0 + 1e-5
    chunks = client.chat.completions.create(**arguments, stream=True)
    streamed = [entry for chunk in chunks if (part := chunk.choices[0].logprobs) for entry in part.content or ()]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in content], abs=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_tokens_of_the_prompt(client: openai.OpenAI, stream: bool) -> None:
    prompt = "The capital of France is"
    reply: Any = client.completions.create(
        model="default", prompt=prompt, max_tokens=2, logprobs=1, echo=True, stream=stream, **GREEDY
    )
    parts = [chunk.choices[0] for chunk in reply] if stream else [reply.choices[0]]
    text = "".join(part.text for part in parts)
    assert text.startswith(prompt + " Paris")
    tokens = list(itertools.chain.from_iterable(part.logprobs.tokens for part in parts if part.logprobs))
    offsets = list(itertools.chain.from_iterable(part.logprobs.text_offset for part in parts if part.logprobs))
    values = list(itertools.chain.from_iterable(part.logprobs.token_logprobs for part in parts if part.logprobs))
    assert "".join(tokens) == text
    assert [text[offset:].startswith(token) for offset, token in zip(offsets, tokens, strict=True)] == [True] * len(tokens)
    assert values[0] is None
    assert all(value <= 0 for value in values[1:])


def test_an_echo_of_ids_is_their_text(client: openai.OpenAI) -> None:
    words = client.completions.create(model="default", prompt="One two three", max_tokens=0, echo=True, logprobs=0)
    assert words.choices[0].text == "One two three"
    assert words.usage is not None
    assert words.usage.completion_tokens == 0
    ids = client.completions.create(model="default", prompt=[1, 2, 100], max_tokens=1, echo=True, **GREEDY)
    plain = client.completions.create(model="default", prompt=[1, 2, 100], max_tokens=1, **GREEDY)
    assert ids.choices[0].text.endswith(plain.choices[0].text)
    assert len(ids.choices[0].text) > len(plain.choices[0].text)


def test_the_best_of_several_is_among_them(client: openai.OpenAI) -> None:
    arguments: Any = {
        "model": "default",
        "prompt": "Once upon a",
        "max_tokens": 5,
        "temperature": 1.0,
        "seed": 3,
        "logprobs": 0,
    }
    everyone = client.completions.create(**arguments, n=4).choices
    best = client.completions.create(**arguments, n=1, best_of=4).choices[0]

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return float(sum(values) / len(values))

    assert best.text == max(everyone, key=mean).text
    assert mean(best) == pytest.approx(max(map(mean, everyone)), abs=1e-3)


PERSON: Any = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
ASK_WEATHER: Any = [{"role": "user", "content": "How is the weather in Rome?"}]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_by_a_schema(client: openai.OpenAI, stream: bool) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    reply: Any = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        max_tokens=80,
        response_format=wanted,
        stream=stream,
        **GREEDY,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in reply) if stream else reply.choices[0].message.content
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert 0 <= person["age"] <= 99
    wanted["json_schema"]["schema"] = {"type": "nonsense"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=QUESTION, response_format=wanted, stream=stream)
    assert caught.value.param == "response_format"


def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    arguments: Any = {"model": "default", "messages": ASK_WEATHER, "max_tokens": 60, **GREEDY}
    tools: Any = [{"type": "function", "function": WEATHER}]
    choice = client.chat.completions.create(**arguments, tools=tools, tool_choice=named).choices[0]
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert (call.function.name, choice.finish_reason, choice.message.content) == ("weather", "tool_calls", None)
    chunks = client.chat.completions.create(**arguments, tools=tools, tool_choice=named, stream=True)
    deltas: Any = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments
    response: Any = client.responses.create(
        model="default",
        input=ASK_WEATHER,
        tools=[{"type": "function", **WEATHER}],
        tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=60,
        **GREEDY,
    )
    assert [(item.name, item.arguments) for item in response.output] == [("weather", call.function.arguments)]
    tool: Any = {"name": "weather", "input_schema": WEATHER["parameters"], "description": WEATHER["description"]}
    message: Any = claude.messages.create(
        model="default",
        messages=ASK_WEATHER,
        max_tokens=60,
        tools=[tool],
        tool_choice={"type": "tool", "name": "weather"},
        extra_body=GREEDY,
    )
    assert [(block.name, block.input) for block in message.content] == [("weather", json.loads(call.function.arguments))]
    assert message.stop_reason == "tool_use"


def test_responses_and_conversations(client: openai.OpenAI) -> None:
    first = client.responses.create(model="default", input=TEXT, max_output_tokens=24, **GREEDY)
    assert "Paris" in first.output_text
    assert first.status == "completed"
    with client.responses.stream(model="default", input=TEXT, max_output_tokens=24, **GREEDY) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == first.output_text
        assert stream.get_final_response().usage == first.usage
    second = client.responses.create(
        model="default", input="And of Italy?", previous_response_id=first.id, max_output_tokens=8, **GREEDY
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    chat = client.chat.completions.create(
        model="default",
        messages=[*QUESTION, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And of Italy?"}],
        max_tokens=8,
        **GREEDY,
    )
    assert second.output_text == chat.choices[0].message.content


def test_messages(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    arguments: Any = {"model": "default", "messages": QUESTION, "max_tokens": 24, "extra_body": GREEDY}
    reply: Any = claude.messages.create(**arguments)
    assert "Paris" in reply.content[0].text
    assert reply.stop_reason == "end_turn"
    with claude.messages.stream(**arguments) as stream:
        assert "".join(stream.text_stream) == reply.content[0].text
        assert stream.get_final_message().usage == reply.usage
    chat = client.chat.completions.create(model="default", messages=QUESTION, max_tokens=24, **GREEDY)
    assert chat.choices[0].message.content == reply.content[0].text
    assert claude.messages.count_tokens(model="default", messages=QUESTION).input_tokens == reply.usage.input_tokens
    begun: Any = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    going_on: Any = claude.messages.create(**(arguments | {"messages": begun, "max_tokens": 3}))
    assert going_on.content[0].text.startswith(" Paris")
    stopped: Any = claude.messages.create(**arguments, stop_sequences=[" is"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " is")
    assert stopped.content[0].text == reply.content[0].text.split(" is")[0]
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.count_tokens(model="default", messages=[{"role": "assistant", "content": []}] * 20_000)  # type: ignore[list-item]
