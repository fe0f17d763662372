"""Completions with log probabilities, echoes and rankings, through the official `openai` client."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import openai
import pytest

from runtime.params import LogprobOptions
from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import ALPHABET, expected


def run(test: Any) -> None:
    async def main() -> None:
        async with open_door() as door:
            async with openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="none", max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed()

    asyncio.run(main())


async def whole_or_joined(client: openai.AsyncOpenAI, stream: bool, **arguments: Any) -> tuple[str, dict[str, list[Any]]]:
    """Text and log probabilities of the first choice; those of a stream put together."""
    reply: Any = await client.completions.create(model=MODEL, stream=stream, **arguments)
    parts = [chunk.choices[0] async for chunk in reply] if stream else [reply.choices[0]]
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    columns = {name: [value for part in parts if part.logprobs for value in getattr(part.logprobs, name)] for name in names}
    return "".join(part.text for part in parts), columns


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_in_columns(stream: bool) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        text, columns = await whole_or_joined(client, stream, prompt="say Hello né!", logprobs=2)
        assert text == "Hello né!"
        assert columns["tokens"] == ["Hell", "o né", "!"]
        assert columns["token_logprobs"] == [-100.0, -101.0, -102.0]
        assert columns["top_logprobs"] == [{" the": 0.0, " sea": -1.0}] * 3
        assert columns["text_offset"] == [0, 4, 8]
        _, columns = await whole_or_joined(client, stream, prompt="say Hello", logprobs=0)
        assert columns["token_logprobs"] == [-100.0, -101.0]
        assert columns["top_logprobs"] == []

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_echo(stream: bool) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        text, _ = await whole_or_joined(client, stream, prompt="say me", echo=True)
        assert text == "say me" + "me"
        assert door.script.tokenized[-1].logprobs is None
        text, _ = await whole_or_joined(client, stream, prompt="say a few tokens", echo=True)
        assert text == "say a few tokens" + "a few tokens"
        text, columns = await whole_or_joined(client, stream, prompt="say me", echo=True, logprobs=1)
        assert text == "say meme"
        assert columns["tokens"] == [*"say me", "me"]
        assert columns["token_logprobs"] == [None, *(-float(ord(character)) for character in "ay me"), -100.0]
        assert columns["top_logprobs"] == [None, *[{" the": 0.0}] * 6]
        assert columns["text_offset"] == [0, 1, 2, 3, 4, 5, 6]
        assert door.script.tokenized[-1].logprobs == LogprobOptions(num_top=1, prompt_start=0)
        ids = [3, 1, 5]
        prompt = "".join(ALPHABET[token_id] for token_id in ids)
        text, _ = await whole_or_joined(client, stream, prompt=ids, echo=True, max_tokens=2, seed=1)
        assert text == prompt + expected("3 1 5", 2, 1)
        text, columns = await whole_or_joined(client, stream, prompt=ids, echo=True, max_tokens=0, logprobs=1)
        assert text == prompt
        assert columns["token_logprobs"] == [None, -1.0, -5.0]
        assert columns["text_offset"] == [0, 3, 7]

    run(test)


def test_the_best_of_several() -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        def mean(seed: int) -> float:
            return -sum(ALPHABET.index(piece) for piece in pieces(seed)) / 3

        def pieces(seed: int) -> list[str]:
            whole = [expected("hi", number, seed) for number in range(4)]
            return [after[len(before) :] for before, after in itertools.pairwise(whole)]

        reply = await client.completions.create(model=MODEL, prompt=["hi", "hi"], best_of=5, n=2, max_tokens=3, seed=10)
        best = sorted(range(10, 15), key=lambda seed: -mean(seed))[:2]
        assert len({mean(seed) for seed in range(10, 15)}) == 5
        assert [choice.text for choice in reply.choices] == [expected("hi", 3, seed) for seed in best] * 2
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        assert all(choice.logprobs is None for choice in reply.choices)
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (4, 30)
        shown = await client.completions.create(model=MODEL, prompt="hi", best_of=2, logprobs=1, max_tokens=4, echo=True)
        assert shown.choices[0].logprobs is not None

    run(test)
