"""The least that a client can do: all requests of `/generate` at once over aiohttp, and nothing with the answers."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import orjson

from perf.language_clients import Job

PACKAGE = "aiohttp"


def measure(job: Job) -> float:
    return asyncio.run(_measure(job))


async def _measure(job: Job) -> float:
    params = {"max_new_tokens": job.num_tokens, "temperature": 0, "ignore_eos": True}
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(job.base_url, connector=connector, timeout=timeout) as session:

        async def ask(question: str) -> None:
            body = orjson.dumps({"text": job.prefix + question, "sampling_params": params})
            async with session.post("/generate", data=body, headers={"Content-Type": "application/json"}) as response:
                answer = orjson.loads(await response.read())
                if response.status != 200:
                    raise RuntimeError(f"{response.status}: {answer}")

        started = time.perf_counter()
        await asyncio.gather(*map(ask, job.questions))
        return time.perf_counter() - started
