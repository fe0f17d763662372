"""The official `openai` client against the real door: its objects, its streams and its exception classes."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import expected

USER: Any = [{"role": "user", "content": "hi"}]


def run(test: Any, *, key: str = "none", **options: Any) -> None:
    async def main() -> None:
        async with open_door(**options) as door:
            async with openai.AsyncOpenAI(base_url=door.url + "/v1", api_key=key, max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed() if "api_key" not in options else None

    asyncio.run(main())


def test_chat() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(model=MODEL, messages=USER, max_tokens=9, n=2, seed=1)
        assert [choice.message.content for choice in reply.choices] == [expected("hi", 9, 1), expected("hi", 9, 2)]
        assert {choice.finish_reason for choice in reply.choices} == {"length"}
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 18, 20)

    run(test)


def test_chat_stream() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=9, seed=1, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert text == expected("hi", 9, 1)
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["length"]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 9
        assert len({chunk.id for chunk in chunks}) == 1

    run(test)


def test_completions() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        reply = await client.completions.create(model="default", prompt=["a", "b"], max_tokens=4, seed=1)
        assert [choice.text for choice in reply.choices] == [expected("a", 4, 1), expected("b", 4, 1)]
        ids = await client.completions.create(model="default", prompt=[1, 2, 3], max_tokens=4, seed=1)
        assert ids.choices[0].text == expected("1 2 3", 4, 1)
        stream = await client.completions.create(model="default", prompt="a", max_tokens=4, seed=1, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == expected("a", 4, 1)

    run(test)


def test_models() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        (card,) = (await client.models.list()).data
        assert card.id == MODEL
        assert (await client.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_exception_classes(stream: bool) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        create: Any = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as caught:
            await create(model=MODEL, messages=USER, temperature=-1, stream=stream)
        assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
        with pytest.raises(openai.BadRequestError) as caught:
            await create(model=MODEL, messages=[{"role": "user", "content": "fail"}], stream=stream)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="gpt-17", messages=USER, stream=stream)
        assert missing.value.code == "model_not_found"
        door.replies.refuse()
        with pytest.raises(openai.InternalServerError) as unavailable:
            await create(model=MODEL, messages=USER, stream=stream)
        assert (unavailable.value.status_code, unavailable.value.code) == (503, "draining")
        door.replies.is_draining = False

    run(test)


def test_a_wrong_key_is_an_authentication_error() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model=MODEL, messages=USER)
        assert caught.value.code == "invalid_api_key"
        await client.with_options(api_key="right").chat.completions.create(model=MODEL, messages=USER, max_tokens=1)

    run(test, key="wrong", api_key="right")


def test_an_error_in_a_stream_is_raised_and_not_taken_for_an_end() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        messages: Any = [{"role": "user", "content": "fail:3"}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "context_length_exceeded"

    run(test)


def test_leaving_a_stream_aborts_it() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        messages: Any = [{"role": "user", "content": "pause:3"}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await door.until(lambda: [abort.cause for abort in door.script.aborts] == ["disconnect"])

    run(test)
