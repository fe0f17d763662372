"""The official `anthropic` client against the real door: its messages, its streams and its exception classes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest

from runtime.params import ChatPrompt
from runtime.text.output_parsing import OutputParsing
from tests.http.door import MODEL, Door, open_door

WEATHER: Any = {
    "name": "weather",
    "description": "The weather somewhere",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}
TIME: Any = {"name": "time", "input_schema": {"type": "object", "properties": {}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
EVERYTHING = f"<think>\nI ask.\n</think>\n\nLet me see.\n{CALL}"


def says(text: str) -> Any:
    return [{"role": "user", "content": f"say {text}"}]


def run(test: Any, *, key: str = "none", **options: Any) -> None:
    async def main() -> None:
        async with open_door(output_parsing=OutputParsing("qwen25", "qwen3"), **options) as door:
            async with anthropic.AsyncAnthropic(base_url=door.url, api_key=key, max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed() if "api_key" not in options else None

    asyncio.run(main())


def last_prompt(door: Door) -> ChatPrompt:
    prompt = door.script.tokenized[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_a_text() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        messages: Any = [{"role": "user", "content": [{"type": "text", "text": "say Hello!"}]}]
        reply = await client.messages.create(
            model=MODEL,
            max_tokens=9,
            messages=messages,
            system=system,
            stop_sequences=["x"],
            extra_body={"temperature": 0.5, "top_k": 5},
        )
        assert [(block.type, block.text) for block in reply.content] == [("text", "Hello!")]  # type: ignore[union-attr]
        assert (reply.role, reply.stop_reason, reply.stop_sequence) == ("assistant", "end_turn", None)
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (10, 2)
        assert reply.usage.cache_read_input_tokens == 0
        sent = door.script.tokenized[-1]
        assert (sent.params.temperature, sent.params.top_k, sent.text.stop) == (0.5, 5, ("x",))
        assert last_prompt(door).turns[0] == {"role": "system", "content": "Be brief."}
        short = await client.messages.create(model=MODEL, max_tokens=1, messages=messages)
        assert short.stop_reason == "max_tokens"

    run(test)


def test_cached_tokens_are_told_apart_if_the_operator_says_so() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        reply = await client.messages.create(model=MODEL, max_tokens=9, messages=says("Hi"))
        assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens) == (5, 1)

    run(test, enable_cache_report=True)


def test_thinking_text_and_a_call() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        arguments: Any = {
            "model": MODEL,
            "max_tokens": 60,
            "messages": says(EVERYTHING),
            "tools": [WEATHER, TIME],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }
        reply: Any = await client.messages.create(**arguments)
        thought, text, call = reply.content
        assert thought.thinking.strip() == "I ask."
        assert text.text.strip() == "Let me see."
        assert (call.name, call.input, call.id[:6]) == ("weather", {"city": "Paris"}, "toolu_")
        assert reply.stop_reason == "tool_use"
        prompt = last_prompt(door)
        assert prompt.template_arguments["enable_thinking"] is True
        assert [tool["function"]["name"] for tool in prompt.template_arguments["tools"]] == ["weather", "time"]
        async with client.messages.stream(**arguments) as stream:
            events = [event async for event in stream]
            final: Any = await stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
        assert (final.content[0].thinking, final.content[1].text) == (thought.thinking, text.text)
        assert final.content[2].input == {"city": "Paris"}
        assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", reply.usage.output_tokens)
        assert final.usage.input_tokens == reply.usage.input_tokens
        assert len([event for event in events if event.type == "text"]) > 1

    run(test)


def test_the_events_in_their_order() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        body = {"model": MODEL, "max_tokens": 60, "messages": says(EVERYTHING), "tools": [WEATHER], "stream": True}
        answer = await door.post("/v1/messages", body)
        *parts, rest = answer.body.split(b"\n\n")
        assert rest == b""
        events = []
        for part in parts:
            name, data = part.split(b"\n")
            events.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + events[-1]["type"].encode()
        names = [event["type"] for event in events]
        block = ["content_block_start", "content_block_delta", "content_block_stop"]
        assert [name for place, name in enumerate(names) if name != names[place - 1]] == [
            "message_start",
            *block * 3,
            "message_delta",
            "message_stop",
        ]
        assert events[0]["message"]["content"] == []
        assert [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"] == [
            "thinking",
            "text",
            "tool_use",
        ]
        assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2]

    run(test)


def test_the_choice_of_tools() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        async def send(**choice: Any) -> Any:
            await client.messages.create(
                model=MODEL,
                max_tokens=60,
                messages=says(CALL),
                tools=[WEATHER, TIME],
                tool_choice=choice,  # type: ignore[arg-type]
            )
            return door.script.tokenized[-1]

        assert (await send(type="auto")).grammar is None
        assert "tools" not in (await send(type="none")).prompt.template_arguments
        required = (await send(type="any")).grammar
        assert "weather" in required.source
        assert "time" in required.source
        assert "weather" not in (await send(type="tool", name="time")).grammar.source
        two: Any = await client.messages.create(
            model=MODEL,
            max_tokens=60,
            messages=says(CALL * 2),
            tools=[WEATHER],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        )
        assert len(two.content) == 1

    run(test)


def test_turns_reach_the_template_as_it_wants_them() -> None:
    messages: Any = [
        {"role": "user", "content": "How is it?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I ask.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "No such tool", "is_error": True},
                {"type": "text", "text": "say So?"},
            ],
        },
    ]

    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        await client.messages.create(model=MODEL, max_tokens=9, messages=messages, tools=[WEATHER])
        prompt = last_prompt(door)
        assert prompt.turns == (
            {"role": "user", "content": "How is it?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "reasoning_content": "I ask.",
                "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
                ],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": "Sunny"},
            {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: No such tool"},
            {"role": "user", "content": "say So?"},
        )
        assert prompt.add_generation_prompt
        assert prompt.template_arguments["enable_thinking"] is False
        begun: Any = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "say Bonjour"}]
        reply: Any = await client.messages.create(model=MODEL, max_tokens=9, messages=begun)
        assert reply.content[0].text == "Bonjour"
        assert last_prompt(door).continue_final_message
        assert not last_prompt(door).add_generation_prompt

    run(test)


def test_a_schema_for_the_answer() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        config: Any = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
        await client.messages.create(model=MODEL, max_tokens=9, messages=says("{}"), output_config=config)
        grammar = door.script.tokenized[-1].grammar
        assert grammar is not None
        assert json.dumps(schema)[1:-1].replace(" ", "") in grammar.source.replace(" ", "")
        assert last_prompt(door).template_arguments["reasoning_effort"] == "low"

    run(test)


def test_counting_tokens() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        arguments: Any = {"model": MODEL, "messages": says("Hi"), "system": "Be brief.", "tools": [WEATHER]}
        assert (await client.messages.count_tokens(**arguments)).input_tokens == 6
        assert not door.script.tokenized
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "fail"}])
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="claude-17", messages=says("Hi"))

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_exception_classes(stream: bool) -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        async def create(text: str = "hi", **fields: Any) -> Any:
            arguments = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
            return await client.messages.create(**(arguments | fields), stream=stream)  # type: ignore[call-overload]

        with pytest.raises(anthropic.BadRequestError) as caught:
            await create(extra_body={"temperature": -1})
        assert caught.value.body == {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "temperature must be in [0, 1e+06]"},
        }
        with pytest.raises(anthropic.BadRequestError):
            await create("fail")
        with pytest.raises(anthropic.NotFoundError) as missing:
            await create(model="claude-17")
        assert missing.value.type == "not_found_error"
        door.replies.refuse()
        with pytest.raises(anthropic.InternalServerError) as unavailable:
            await create()
        assert (unavailable.value.status_code, unavailable.value.type) == (503, "overloaded_error")
        door.replies.is_draining = False

    run(test)


def test_keys() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        arguments: Any = {"model": MODEL, "max_tokens": 5, "messages": says("Hi")}
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await client.messages.create(**arguments)
        assert caught.value.type == "authentication_error"
        await client.with_options(api_key="right").messages.create(**arguments)
        await client.with_options(api_key=None, auth_token="right").messages.create(**arguments)
        answer = await door.post("/v1/messages", arguments)
        assert answer.status == 401
        assert answer.json["error"]["type"] == "authentication_error"

    run(test, key="wrong", api_key="right")


def test_an_error_in_a_stream_is_raised_and_not_taken_for_an_end() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        messages: Any = [{"role": "user", "content": "fail:3"}]
        stream = await client.messages.create(model=MODEL, max_tokens=9, messages=messages, stream=True)
        names: list[str] = []

        async def read() -> None:
            async for event in stream:
                names.append(event.type)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(anthropic.APIStatusError) as caught:
            await read()
        assert "content_block_delta" in names
        assert "message_stop" not in names
        assert caught.value.type == "invalid_request_error"

    run(test)


def test_leaving_a_stream_aborts_it() -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        messages: Any = [{"role": "user", "content": "pause:3"}]
        stream = await client.messages.create(model=MODEL, max_tokens=9, messages=messages, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await door.until(lambda: [abort.cause for abort in door.script.aborts] == ["disconnect"])

    run(test)


# Wrong requests: (body changes, how the message begins).
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "Expected `int`, got `null` at max_tokens"),
    ({"max_tokens": 0}, "max_tokens must"),
    ({"max_tokens": 2**70}, "max_tokens must be an integer in"),
    ({"messages": []}, "messages must not be empty"),
    ({"messages": [{"role": "king", "content": "x"}]}, "Invalid enum value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0].type: content parts",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: a text block"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]: a tool_result"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]: a tool_use"),
    ({"system": 5}, "Expected"),
    ({"stop_sequences": ["x"] * 17}, "at most 16 stop_sequences"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema: tools[0] needs"),
    ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema must be the schema of an object"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0]"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: tools of type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice: there is no tool 'f'"),
    ({"thinking": {"type": "much"}}, "Invalid enum value"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "Expected `int` >= 1"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers is not supported"),
    ({"colour": 1}, "Object contains unknown field `colour`"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_bad_input(stream: bool) -> None:
    async def test(door: Door, client: anthropic.AsyncAnthropic) -> None:
        good = {"model": MODEL, "max_tokens": 5, "messages": says("Hi"), "stream": stream}
        for changes, beginning in BAD:
            answer = await door.post("/v1/messages", good | changes)
            assert answer.status == 400, changes
            assert answer.json["error"]["message"].startswith(beginning), (changes, answer.json)
            assert answer.json["error"]["type"] == "invalid_request_error"
        for body in (b"", b"[]", b"[" * 10**5, b'{"system": "\\ud800"}', b'{"temperature": NaN}', b"\xff"):
            answer = await door.post("/v1/messages", body)
            assert (answer.status, answer.json["type"]) == (400, "error")
        assert (await door.post("/v1/messages", b" " * 2**21)).json["error"]["type"] == "request_too_large"
        assert (await door.get("/v1/messages")).status == 405
        assert not door.script.tokenized

    run(test, max_body_bytes=2**20)
