"""`/v1/responses` through the official `openai` client: objects, events, conversations and the store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from runtime.params import ChatPrompt, LogprobOptions
from runtime.text.output_parsing import OutputParsing
from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import expected

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 10**30}}},
    "strict": True,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
EVERYTHING = f"<think>\nI ask.\n</think>\n\nLet me see.\n{CALL}"


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with open_door(output_parsing=OutputParsing("qwen25", "qwen3"), **options) as door:
            async with openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="none", max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed()

    asyncio.run(main())


def last_prompt(door: Door) -> ChatPrompt:
    prompt = door.script.tokenized[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_a_text() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.responses.create(
            model=MODEL, input="say Hello!", instructions="Be brief.", temperature=0.5, metadata={"a": "b"}
        )
        assert reply.output_text == "Hello!"
        assert (reply.status, reply.error, reply.incomplete_details) == ("completed", None, None)
        assert (reply.instructions, reply.temperature, reply.metadata) == ("Be brief.", 0.5, {"a": "b"})
        assert reply.id.startswith("resp_")
        assert reply.usage is not None
        assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (10, 2, 12)
        assert [turn["role"] for turn in last_prompt(door).turns] == ["system", "user"]
        short = await client.responses.create(model=MODEL, input="say Hello!", max_output_tokens=1)
        assert short.status == "incomplete"
        assert short.incomplete_details is not None
        assert short.incomplete_details.reason == "max_output_tokens"
        assert short.output[0].status == "incomplete"  # type: ignore[union-attr]
        assert short.output_text == "Hell"

    run(test)


def test_reasoning_text_and_a_call() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.responses.create(model=MODEL, input=f"say {EVERYTHING}", tools=[WEATHER])
        thought, message, call = reply.output
        assert thought.type == "reasoning"
        assert thought.content is not None
        assert thought.content[0].text.strip() == "I ask."
        assert message.type == "message"
        assert reply.output_text.strip() == "Let me see."
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments), call.status) == ("weather", {"city": "Paris"}, "completed")
        assert call.call_id != call.id
        assert reply.usage is not None
        assert reply.usage.output_tokens_details.reasoning_tokens > 0
        shown = last_prompt(door).template_arguments["tools"]
        assert shown == [{"type": "function", "function": {key: value for key, value in WEATHER.items() if key != "type"}}]

    run(test)


ORDER = [
    "response.created",
    "response.in_progress",
    *[
        f"response.{name}"
        for text in ("reasoning_text", "output_text")
        for name in (
            "output_item.added",
            "content_part.added",
            f"{text}.delta",
            f"{text}.done",
            "content_part.done",
            "output_item.done",
        )
    ],
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]


def test_the_events_in_their_order() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        arguments: Any = {"model": MODEL, "input": f"say {EVERYTHING}", "tools": [WEATHER]}
        stream = await client.responses.create(**arguments, stream=True)
        events: list[Any] = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        names = [event.type for event in events]
        assert [name for place, name in enumerate(names) if name != names[place - 1]] == ORDER
        final = events[-1].response
        for item in (event for event in events if event.type == "response.output_item.done"):
            assert item.item == final.output[item.output_index]
        for kind, whole in (("output_text", final.output_text), ("reasoning_text", final.output[0].content[0].text)):
            deltas = [event.delta for event in events if event.type == f"response.{kind}.delta"]
            assert "".join(deltas) == whole
            assert len(deltas) > 1
            (done,) = [event for event in events if event.type == f"response.{kind}.done"]
            assert done.text == whole
        arguments_text = "".join(event.delta for event in events if event.type.endswith("arguments.delta"))
        assert arguments_text == final.output[2].arguments
        assert {event.response.id for event in (events[0], events[1], events[-1])} == {final.id}
        assert events[0].response.status == "in_progress"
        assert events[0].response.output == []
        assert (await client.responses.retrieve(final.id)).output == final.output
        async with client.responses.stream(**arguments) as accumulated:
            async for _ in accumulated:
                pass
            assert (await accumulated.get_final_response()).output_text == final.output_text

    run(test)


def test_the_bytes_between_events() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        answer = await door.post("/v1/responses", {"input": "say Hi", "stream": True})
        *events, rest = answer.body.split(b"\n\n")
        assert rest == b""
        for event in events:
            name, data = event.split(b"\n")
            assert name == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()

    run(test)


def test_log_probabilities() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        arguments: Any = {
            "model": MODEL,
            "input": "say <think>a</think>Hello!",
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 1,
        }
        reply = await client.responses.create(**arguments)
        assert door.script.tokenized[-1].logprobs == LogprobOptions(num_top=1)
        content: Any = reply.output[1].content[0]  # type: ignore[union-attr, index]
        tokens = [entry.token for entry in content.logprobs]
        assert "".join(tokens).endswith("Hello!")
        assert len(tokens) <= 3
        events: list[Any] = [event async for event in await client.responses.create(**arguments, stream=True)]
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        assert [entry.token for delta in deltas for entry in delta.logprobs] == tokens

    run(test)


def test_a_conversation_goes_on() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(
            model=MODEL, input=f"say {EVERYTHING}", tools=[WEATHER], instructions="Of the first only."
        )
        call: Any = first.output[2]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "say Sunny."}
        second = await client.responses.create(
            model=MODEL, input=[result], previous_response_id=first.id, tools=[WEATHER], instructions="Of the second."
        )
        assert second.previous_response_id == first.id
        turns = last_prompt(door).turns
        assert turns[0] == {"role": "system", "content": "Of the second."}
        assert turns[1]["role"] == "user"
        assert turns[2]["content"].strip() == "Let me see."
        assert turns[2]["reasoning_content"].strip() == "I ask."
        function = {"name": "weather", "arguments": {"city": "Paris"}}
        assert turns[2]["tool_calls"] == [{"id": call.call_id, "type": "function", "function": function}]
        assert turns[3] == {"role": "tool", "tool_call_id": call.call_id, "content": "say Sunny."}
        # The same conversation with the items sent back by the client.
        items: Any = [{"role": "user", "content": f"say {EVERYTHING}"}, *[item.to_dict() for item in first.output], result]
        await client.responses.create(model=MODEL, input=items, tools=[WEATHER], instructions="Of the second.", store=False)
        assert last_prompt(door).turns == turns

    run(test)


def test_items_become_turns() -> None:
    thought: Any = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    calls: Any = [
        {"type": "function_call", "call_id": name, "name": name, "arguments": '{"a": 1}'} for name in ("first", "second")
    ]
    results: Any = [{"type": "function_call_output", "call_id": name, "output": name} for name in ("first", "second")]

    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        items = [{"role": "user", "content": "Go"}, *calls, *results, thought, calls[0], {"role": "user", "content": "say x"}]
        await client.responses.create(model=MODEL, input=items)

        def turn_call(name: str) -> Any:
            return {"id": name, "type": "function", "function": {"name": name, "arguments": {"a": 1}}}

        assert last_prompt(door).turns == (
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": "", "tool_calls": [turn_call("first"), turn_call("second")]},
            {"role": "tool", "tool_call_id": "first", "content": "first"},
            {"role": "tool", "tool_call_id": "second", "content": "second"},
            {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [turn_call("first")]},
            {"role": "user", "content": "say x"},
        )
        # Reasoning after an answer begins another turn, as it does in one that called a tool without any.
        answer: Any = {"role": "assistant", "content": "Well."}
        await client.responses.create(model=MODEL, input=[answer, thought, calls[0], {"role": "user", "content": "say x"}])
        assert [turn["content"] for turn in last_prompt(door).turns] == ["Well.", "", "say x"]

    run(test)


def test_the_store() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.responses.create(model=MODEL, input="say Hi")
        assert await client.responses.retrieve(reply.id) == reply
        items = await client.responses.input_items.list(reply.id)
        assert items.data[0].content[0].text == "say Hi"  # type: ignore[union-attr, index]
        with pytest.raises(openai.ConflictError):
            await client.responses.cancel(reply.id)
        await client.responses.delete(reply.id)
        for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError) as caught:
                await call(reply.id)
            assert caught.value.code == "response_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(model=MODEL, input="say Hi", previous_response_id=reply.id)
        assert (bad.value.code, bad.value.param) == ("previous_response_not_found", "previous_response_id")
        forgotten = await client.responses.create(model=MODEL, input="say Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(forgotten.id)

    run(test)


def test_cancelling_a_stream() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="pause:3", stream=True)
        events: list[Any] = []
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta" and len(events) > 4 and not door.script.aborts:
                response_id = events[0].response.id
                assert (await client.responses.retrieve(response_id)).status == "in_progress"
                with pytest.raises(openai.ConflictError):
                    await client.responses.delete(response_id)
                with pytest.raises(openai.BadRequestError):
                    await client.responses.create(model=MODEL, input="x", previous_response_id=response_id)
                assert (await client.responses.cancel(response_id)).status == "cancelled"
        assert events[-1].type == "response.incomplete"
        assert events[-1].response.status == "cancelled"
        assert [abort.cause for abort in door.script.aborts] == ["api"]
        assert (await client.responses.retrieve(events[0].response.id)).status == "cancelled"

    run(test)


def test_leaving_a_stream_forgets_it() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="pause:3", stream=True)
        response_id = ""
        async for event in stream:
            response_id = event.response.id  # type: ignore[union-attr]
            break
        await stream.close()
        await door.until(lambda: [abort.cause for abort in door.script.aborts] == ["disconnect"])
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response_id)

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_exception_classes(stream: bool) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        create: Any = client.responses.create
        with pytest.raises(openai.BadRequestError) as caught:
            await create(model=MODEL, input="hi", temperature=-1, stream=stream)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as caught:
            await create(model=MODEL, input="fail", stream=stream)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            await create(model="gpt-17", input="hi", stream=stream)
        door.replies.refuse()
        with pytest.raises(openai.InternalServerError) as unavailable:
            await create(model=MODEL, input="hi", stream=stream)
        assert unavailable.value.status_code == 503
        door.replies.is_draining = False
        assert len(door.script.tokenized) == 1

    run(test)


def test_an_error_in_a_stream_is_told_and_raised() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="fail:3", stream=True)
        events: list[Any] = []

        async def read() -> None:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(openai.APIError) as caught:
            await read()
        assert caught.value.code == "context_length_exceeded"
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.code == "context_length_exceeded"
        assert (await client.responses.retrieve(events[-1].response.id)).status == "failed"

    run(test)


def test_a_wrong_key() -> None:
    async def main() -> None:
        async with open_door(api_key="right") as door, openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="wrong") as client:
            for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
                with pytest.raises(openai.AuthenticationError):
                    await call("resp_1")

    asyncio.run(main())


def test_what_the_engine_says_is_what_the_client_reads() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.responses.create(model=MODEL, input="anything", max_output_tokens=7, extra_body={"seed": 4})
        assert reply.output_text == expected("anything", 7, 4)

    run(test)
