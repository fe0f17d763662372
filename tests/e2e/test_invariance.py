"""A request's token ids do not depend on its neighbours, on chunk boundaries or on what is cached."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.client import GenerateClient
from tests.e2e.server_process import ServerProcess, running

STORY = (
    "Once upon a time there was a lighthouse keeper who wrote a letter to the sea every evening. "
    "He told it about the ships, the gulls and the weather, and he always ended with the same question. " * 6
)
NUM_TOKENS = 64


def prompts(count: int) -> list[str]:
    return [f"Neighbour number {number} asks: why is the sky {'blue ' * (number % 7 + 1)}?" for number in range(count)]


async def ids(client: GenerateClient, prompt: str, **sampling: object) -> list[int]:
    reply = await client.generate(prompt, NUM_TOKENS, ignore_eos=True, **sampling)
    assert reply["meta_info"]["completion_tokens"] == NUM_TOKENS
    token_ids: list[int] = reply["output_ids"]
    return token_ids


def test_alone_in_a_batch_and_on_a_prefix_hit(server: ServerProcess) -> None:
    async def run() -> None:
        async with GenerateClient(server.url) as client:
            for sampling in ({}, {"temperature": 0.8, "sampling_seed": 11}):
                await client.flush()
                alone = await ids(client, STORY, **sampling)
                hit = await client.generate(STORY, 1)
                assert hit["meta_info"]["cached_tokens"] > 100
                assert await ids(client, STORY, **sampling) == alone
                for others in (7, 63):
                    await client.flush()
                    results = await asyncio.gather(
                        ids(client, STORY, **sampling), *(ids(client, prompt) for prompt in prompts(others))
                    )
                    assert results[0] == alone

    asyncio.run(run())


def test_in_chunks(server: ServerProcess, tmp_path: Path) -> None:
    async def run(url: str) -> list[int]:
        async with GenerateClient(url) as client:
            return await ids(client, STORY)

    whole = asyncio.run(run(server.url))
    chunked = ["--chunked-prefill-size", "24", "--disable-overlap-schedule", "--max-total-tokens", "4096", "--page-size", "32"]
    with running(chunked, tmp_path / "log") as other:
        assert asyncio.run(run(other.url)) == whole


def test_a_long_prefix_is_not_computed_twice(server: ServerProcess) -> None:
    prefix = [1000 + number % 997 for number in range(800)]

    async def run() -> None:
        async with GenerateClient(server.url) as client:
            first = await client.generate([*prefix, 5000, 5001], 4)
            second = await client.generate([*prefix, 6000, 6001], 4)
            assert first["meta_info"]["cached_tokens"] == 0
            assert second["meta_info"]["cached_tokens"] == 800

    asyncio.run(run())
