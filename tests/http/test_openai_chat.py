"""Chats with tools, reasoning, log probabilities and constraints, through the official `openai` client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from runtime.params import ChatPrompt, GrammarSpec, LogprobOptions
from runtime.text.output_parsing import OutputParsing
from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import expected

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere",
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: Any = {
    "type": "function",
    "function": {"name": "time", "strict": True, "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO_CALLS = f'Let me see.\n{CALL}\n<tool_call>\n{{"name": "time", "arguments": {{}}}}\n</tool_call>'
THOUGHT = "<think>\nIs it far?\n</think>\n\nNo, it is near."


def says(text: str) -> Any:
    """Messages to which the scripted engine answers with `text`."""
    return [{"role": "user", "content": f"say {text}"}]


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        parsing = OutputParsing("qwen25", "qwen3")
        async with open_door(output_parsing=parsing, enable_cache_report=True, **options) as door:
            async with openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="none", max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed()

    asyncio.run(main())


async def streamed(client: openai.AsyncOpenAI, **arguments: Any) -> tuple[list[Any], Any]:
    """All chunks, and the message that the client's own accumulator makes of them."""
    async with client.chat.completions.stream(model=MODEL, **arguments) as stream:
        chunks = [event.chunk async for event in stream if event.type == "chunk"]
        return chunks, await stream.get_final_completion()


def test_calls_of_tools() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(model=MODEL, messages=says(TWO_CALLS), tools=[WEATHER, TIME])
        (choice,) = reply.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is not None
        assert choice.message.content.strip() == "Let me see."
        calls: Any = choice.message.tool_calls
        assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
            ("weather", {"city": "Paris"}),
            ("time", {}),
        ]
        assert len({call.id for call in calls}) == 2
        assert all(call.id.startswith("call_") and len(call.id) == 29 and call.type == "function" for call in calls)
        prompt = door.script.tokenized[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.template_arguments["tools"] == [WEATHER, TIME]

    run(test)


def test_a_stream_of_calls() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        chunks, final = await streamed(client, messages=says(TWO_CALLS), tools=[WEATHER, TIME])
        (choice,) = final.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content.strip() == "Let me see."
        assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [
            ("weather", {"city": "Paris"}),
            ("time", {}),
        ]
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        for index in (0, 1):
            first, *others = [call for call in deltas if call.index == index]
            assert first.id
            assert first.type == "function"
            assert first.function.arguments == ""
            assert others
            assert all(call.id is None and call.function.name is None for call in others)
        assert len([call for call in deltas if call.index == 0]) > 2, "arguments come in pieces"
        assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "tool_calls"]

    run(test)


def test_one_call_if_no_more_are_wanted() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        arguments: Any = {"messages": says(TWO_CALLS), "tools": [WEATHER, TIME], "parallel_tool_calls": False}
        whole = await client.chat.completions.create(model=MODEL, **arguments)
        _, final = await streamed(client, **arguments)
        for reply in (whole, final):
            assert [call.function.name for call in reply.choices[0].message.tool_calls] == ["weather"]

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_the_choice_of_tools(stream: bool) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        async def send(choice: Any) -> Any:
            reply = await client.chat.completions.create(
                model=MODEL, messages=says(CALL), tools=[WEATHER, TIME], tool_choice=choice, stream=stream
            )
            async for _ in reply if stream else _nothing():
                pass
            return reply, door.script.tokenized[-1]

        _, auto = await send("auto")
        assert auto.grammar is None
        reply, none = await send("none")
        assert none.grammar is None
        assert "tools" not in none.prompt.template_arguments
        if not stream:
            assert reply.choices[0].message.content == CALL
            assert reply.choices[0].finish_reason == "stop"
        _, required = await send("required")
        assert required.grammar.kind == "structural_tag"
        assert "weather" in required.grammar.source
        assert "time" in required.grammar.source
        _, named = await send({"type": "function", "function": {"name": "time"}})
        assert named.prompt.template_arguments["tools"] == [TIME]
        assert "weather" not in named.grammar.source

    run(test)


def test_a_parser_gets_the_special_tokens_that_it_looks_for() -> None:
    async def main() -> None:
        async with open_door(output_parsing=OutputParsing("mistral", None)) as door:
            for tools, skips in (([], True), ([WEATHER], False)):
                body = {"messages": says('[TOOL_CALLS] [{"name": "weather", "arguments": {}}]'), "tools": tools}
                reply = (await door.post("/v1/chat/completions", body)).json
                assert door.script.tokenized[-1].text.skip_special_tokens == skips
                assert ("tool_calls" in reply["choices"][0]["message"]) == (not skips)

    asyncio.run(main())


def test_a_named_tool_is_called_once() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        named: Any = {"type": "function", "function": {"name": "weather"}}
        for choice, num_calls in (("required", 2), (named, 1)):
            reply = await client.chat.completions.create(
                model=MODEL, messages=says(CALL + CALL), tools=[WEATHER], tool_choice=choice
            )
            assert len(reply.choices[0].message.tool_calls or ()) == num_calls

    run(test)


def test_a_required_call_that_is_cut() -> None:
    """The reason is the length, the content is empty, and the call is there as far as it has come."""

    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        seen: set[str | None] = set()
        for max_tokens in range(1, len(CALL) // 4 - 4):
            arguments: Any = {"messages": says(CALL), "tools": [WEATHER], "tool_choice": "required", "max_tokens": max_tokens}
            whole = (await client.chat.completions.create(model=MODEL, **arguments)).choices[0]
            stream = await client.chat.completions.create(model=MODEL, **arguments, stream=True)
            last = [chunk.choices[0] async for chunk in stream]
            assert whole.finish_reason == last[-1].finish_reason == "length"
            assert not whole.message.content
            assert not any(choice.delta.content for choice in last)
            deltas = [call for choice in last for call in choice.delta.tool_calls or ()]
            written = "".join(call.function.arguments or "" for call in deltas if call.function)
            assert [call.function.name for call in whole.message.tool_calls or ()] == ["weather"] * bool(deltas)
            assert "".join(call.function.arguments for call in whole.message.tool_calls or ()) == written
            assert '{"city": "Paris"}'.startswith(written)
            seen.add(written if deltas else None)
        assert {None, ""} < seen, "it is cut before, in and behind its name"

    run(test)


async def _nothing() -> Any:
    for item in ():
        yield item


def test_reasoning() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        whole: Any = await client.chat.completions.create(model=MODEL, messages=says(THOUGHT))
        message = whole.choices[0].message
        assert message.reasoning_content.strip() == "Is it far?"
        assert message.content.strip() == "No, it is near."
        # Up to the first piece of the answer, four characters a token.
        num_thought = whole.usage.completion_tokens_details.reasoning_tokens
        assert (THOUGHT.index("No") - 4) // 4 <= num_thought <= THOUGHT.index("No,") // 4 + 1
        chunks: Any = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=MODEL, messages=says(THOUGHT), stream=True, stream_options={"include_usage": True}
            )
        ]
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "".join(delta.reasoning_content or "" for delta in deltas) == message.reasoning_content
        assert "".join(delta.content or "" for delta in deltas) == message.content
        assert len([delta for delta in deltas if delta.reasoning_content]) > 1
        assert chunks[-1].usage == whole.usage

    run(test)


def test_reasoning_at_once_or_not_separated() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        async def deltas(**extra: Any) -> list[Any]:
            stream = await client.chat.completions.create(model=MODEL, messages=says(THOUGHT), stream=True, extra_body=extra)
            return [chunk.choices[0].delta async for chunk in stream]

        buffered = await deltas(stream_reasoning=False)
        assert [delta.reasoning_content.strip() for delta in buffered if delta.reasoning_content] == ["Is it far?"]
        position = [bool(delta.reasoning_content) for delta in buffered].index(True)
        assert not any(delta.content for delta in buffered[:position])
        assert "".join(delta.content or "" for delta in buffered).strip() == "No, it is near."
        plain = await deltas(separate_reasoning=False)
        assert "".join(delta.content or "" for delta in plain) == THOUGHT
        cut = await deltas(stream_reasoning=False, max_tokens=4)
        assert [delta.reasoning_content.strip() for delta in cut if delta.reasoning_content] == ["Is it fa"]
        unfinished = await client.chat.completions.create(
            model=MODEL, messages=says(THOUGHT), max_tokens=4, extra_body={"stream_reasoning": False}
        )
        message: Any = unfinished.choices[0].message
        assert message.reasoning_content.strip() == "Is it fa"
        assert message.content == ""

    run(test)


def test_the_template_learns_how_hard_to_think() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        async def arguments(**fields: Any) -> Any:
            await door.post("/v1/chat/completions", {"messages": says("x"), **fields})
            prompt = door.script.tokenized[-1].prompt
            assert isinstance(prompt, ChatPrompt)
            return prompt.template_arguments

        off = {"enable_thinking": False, "thinking": False}
        assert await arguments() == {}
        assert await arguments(reasoning_effort="low") == {"reasoning_effort": "low"}
        assert await arguments(reasoning_effort=0.5) == {"reasoning_effort": 0.5}
        assert await arguments(reasoning_effort="none") == off
        assert await arguments(reasoning={"enabled": False}) == off
        on = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
        assert await arguments(reasoning={"enabled": True, "effort": "high"}) == on
        kwargs = {"enable_thinking": True, "colour": "red"}
        assert await arguments(reasoning_effort="none", chat_template_kwargs=kwargs) == off | kwargs

    run(test)


def test_log_probabilities() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        arguments: Any = {"model": MODEL, "messages": says("schön"), "logprobs": True, "top_logprobs": 2}
        whole = await client.chat.completions.create(**arguments)
        assert whole.choices[0].logprobs is not None
        content: Any = whole.choices[0].logprobs.content
        assert [(entry.token, bytes(entry.bytes), entry.logprob) for entry in content] == [
            ("sch\u00f6", "sch\u00f6".encode(), -100.0),
            ("n", b"n", -101.0),
        ]
        assert [[(top.token, top.logprob) for top in entry.top_logprobs] for entry in content] == [
            [(" the", 0.0), (" sea", -1.0)]
        ] * 2
        assert door.script.tokenized[-1].logprobs == LogprobOptions(num_top=2)
        stream = await client.chat.completions.create(**arguments, stream=True)
        chunks = [chunk async for chunk in stream]
        entries = [entry for chunk in chunks if (logprobs := chunk.choices[0].logprobs) for entry in logprobs.content or ()]
        assert entries == content
        without = await client.chat.completions.create(model=MODEL, messages=says("x"), logprobs=True)
        assert without.choices[0].logprobs is not None
        assert without.choices[0].logprobs.content is not None
        assert without.choices[0].logprobs.content[0].top_logprobs == []

    run(test)


def test_log_probabilities_beside_reasoning_and_calls() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        text = THOUGHT + CALL
        chunks, final = await streamed(client, messages=says(text), tools=[WEATHER], logprobs=True)
        tokens = [entry.token for chunk in chunks if (logprobs := chunk.choices[0].logprobs) for entry in logprobs.content]
        assert "".join(tokens) == text, "no token is lost and none comes twice"
        assert final.choices[0].message.tool_calls

    run(test)


def test_constraints() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tag = {"type": "structural_tag", "structures": [{"begin": "<a>", "schema": schema, "end": "</a>"}], "triggers": ["<a"]}

    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        async def grammar(**fields: Any) -> GrammarSpec | None:
            answer = await door.post("/v1/completions", {"prompt": "hi", "max_tokens": 1, **fields})
            assert answer.status == 200, answer.body
            return door.script.tokenized[-1].grammar

        assert await grammar(response_format={"type": "text"}) is None
        assert await grammar(response_format={"type": "json_object"}) == GrammarSpec("json_object", "")
        named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
        found = await grammar(response_format=named)
        assert found is not None
        assert (found.kind, json.loads(found.source)) == ("json_schema", schema)
        found = await grammar(response_format=tag)
        assert found is not None
        assert (found.kind, json.loads(found.source)) == ("structural_tag", tag)
        assert await grammar(regex="a+") == GrammarSpec("regex", "a+")
        assert await grammar(ebnf='root ::= "a"') == GrammarSpec("ebnf", 'root ::= "a"')
        assert await grammar(json_schema='{"type": "string"}') == GrammarSpec("json_schema", '{"type": "string"}')
        # In a chat the grammar is of the answer, and the model thinks before.
        await client.chat.completions.create(model=MODEL, messages=says("x"), response_format={"type": "json_object"})
        chat = door.script.tokenized[-1].grammar
        assert chat is not None
        assert chat.kind == "structural_tag"
        assert "</think>" in chat.source

    run(test)


def test_turns_with_calls_reach_the_template_as_it_wants_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "How is it in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I ask."},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
        {"role": "user", "content": "say Sunny."},
    ]

    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        await client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
        prompt = door.script.tokenized[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.turns[0] == {"role": "system", "content": "Be brief."}
        assert prompt.turns[2] == {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I ask.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
            ],
        }
        assert prompt.turns[3] == {"role": "tool", "content": "Sunny", "tool_call_id": "call_1"}

    run(test)


def test_choices_have_parsers_of_their_own() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(model=MODEL, messages=says(TWO_CALLS), tools=[WEATHER, TIME], n=3)
        ids = {call.id for choice in reply.choices for call in choice.message.tool_calls or ()}
        assert len(ids) == 6
        assert [choice.index for choice in reply.choices] == [0, 1, 2]

    run(test)


def test_without_parsers_everything_is_text() -> None:
    async def main() -> None:
        async with open_door() as door:
            body = {"messages": says(TWO_CALLS), "tools": [WEATHER, TIME]}
            reply = (await door.post("/v1/chat/completions", body)).json
            assert reply["choices"][0]["message"]["content"] == TWO_CALLS
            assert reply["choices"][0]["finish_reason"] == "stop"
            assert "tool_calls" not in reply["choices"][0]["message"]
            plain = await door.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3})
            assert plain.json["choices"][0]["message"]["content"] != expected("a", 4)

    asyncio.run(main())
