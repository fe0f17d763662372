"""Requests that end badly leave nothing behind: no page, no slot, no task, no file descriptor."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import orjson
import psutil

from tests.e2e.client import GenerateClient
from tests.e2e.server_process import ServerProcess

NUM_REQUESTS = 2000
NUM_CLIENTS = 48


async def send_and_leave(client: GenerateClient, rng: random.Random) -> None:
    """One request that may be cut: before the answer, after a few bytes of it, or by an abort with its rid."""
    rid = f"leak-{rng.getrandbits(48)}"
    body = orjson.dumps(
        {
            "text": "Tell me about " + "the sea and " * rng.randrange(1, 60),
            "rid": rid,
            "stream": rng.random() < 0.7,
            "sampling_params": {"max_new_tokens": rng.randrange(1, 24), "temperature": 0.7, "ignore_eos": True},
        }
    )
    way = rng.choice(("finish", "leave early", "leave in the middle", "abort"))
    patience_s = rng.uniform(0.0, 0.4)
    try:
        async with asyncio.timeout(patience_s if way == "leave early" else 60):
            async with client.session.post(client.url + "/generate", data=body) as response:
                assert response.status == 200, await response.text()
                if way == "abort":
                    await client.session.post(client.url + "/abort_request", data=orjson.dumps({"rid": rid}))
                if way == "leave in the middle":
                    await response.content.read(rng.randrange(1, 400))
                    response.close()
                else:
                    await response.read()
    except (TimeoutError, aiohttp.ClientError):
        assert way in ("leave early", "leave in the middle")


def test_two_thousand_requests_with_random_aborts(server: ServerProcess) -> None:
    process = psutil.Process(server.process.pid)

    async def run() -> None:
        async with GenerateClient(server.url) as client:
            await client.generate("warm up", 4)
            before, num_fds = await client.pool(), process.num_fds()
            rngs = [random.Random(seed) for seed in range(NUM_CLIENTS)]
            counts = [NUM_REQUESTS // NUM_CLIENTS + (number < NUM_REQUESTS % NUM_CLIENTS) for number in range(NUM_CLIENTS)]

            async def one_client(rng: random.Random, count: int) -> None:
                for _ in range(count):
                    await send_and_leave(client, rng)

            await asyncio.gather(*map(one_client, rngs, counts))
            canary = await client.generate("Hello", 8)
            assert canary["meta_info"]["completion_tokens"] == 8
            after = await settled(client)
            for name in (
                "num_leased_pages",
                "num_fenced_pages",
                "num_leases",
                "num_waiting",
                "num_running",
                "num_open_requests",
            ):
                assert after[name] == 0, (name, after)
            assert after["num_free_pages"] + after["num_cached_pages"] == after["num_pages"] == before["num_pages"]
        # Sockets of our own closed connections go with the next turn of the server's loop.
        async with GenerateClient(server.url) as client:
            final = await client.pool()
            assert process.num_fds() <= num_fds + 2
            assert final["num_tasks"] <= before["num_tasks"] + 2  # our own connections, open and just closed

    asyncio.run(run())


async def settled(client: GenerateClient) -> dict[str, int]:
    """The pool once every abort has been worked off; a disconnect is noticed within a step, so this is a handful of polls."""
    for _ in range(100):
        state = await client.pool()
        if state["num_running"] == state["num_leases"] == state["num_fenced_pages"] == state["num_open_requests"] == 0:
            break
        await asyncio.sleep(0.02)
    return state
