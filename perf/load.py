"""The load generator: one process, one event loop, the same streaming `/v1/completions` requests for every engine.

It keeps timestamps only, no object per token, so that at these rates the client is not what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import orjson

from perf.workloads import Call

HEADERS = {"Content-Type": "application/json"}


@dataclass
class Sample:
    """One request: seconds on the client's monotonic clock."""

    sent: float
    events: list[float] = field(default_factory=list)
    ended: float = 0.0
    num_tokens: int = 0
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        return self.events[0] - self.sent

    @property
    def tpot_s(self) -> float:
        return (self.ended - self.events[0]) / max(self.num_tokens - 1, 1)


class Client:
    """Sends calls to one server. Use as an async context manager."""

    def __init__(self, base_url: str, model: str = "default") -> None:
        self._url = base_url.rstrip("/") + "/v1/completions"
        self._model = model
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(self, call: Call) -> Sample:
        """One request, streamed to its end. A refusal is a sample with its error."""
        assert self._session is not None
        sample = Sample(sent=time.perf_counter())
        try:
            async with self._session.post(self._url, data=self._body(call), headers=HEADERS) as response:
                if response.status != 200:
                    sample.error = f"{response.status}: {(await response.text())[:200]}"
                    return sample
                async for line in response.content:
                    _read(line, sample)
        except (aiohttp.ClientError, OSError) as error:
            sample.error = str(error) or type(error).__name__
        sample.ended = time.perf_counter()
        if sample.error is None and sample.num_tokens != call.num_output_tokens:
            sample.error = f"asked for {call.num_output_tokens} tokens, got {sample.num_tokens}"
        return sample

    def _body(self, call: Call) -> bytes:
        return orjson.dumps(
            {
                "model": self._model,
                "prompt": call.prompt,
                "max_tokens": call.num_output_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )


def _read(line: bytes, sample: Sample) -> None:
    if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
        return
    sample.events.append(time.perf_counter())
    if b'"usage":{' in line or b'"usage": {' in line:
        sample.num_tokens = orjson.loads(line[5:])["usage"]["completion_tokens"]
    elif b'"error"' in line:
        sample.error = line[5:205].decode()


async def closed_loop(client: Client, calls: Iterable[Call], concurrency: int) -> AsyncIterator[Sample]:
    """Keep `concurrency` requests open until the calls are used up; samples come as they end."""
    queue: Iterator[Call] = iter(calls)
    running: set[asyncio.Task[Sample]] = set()
    while True:
        while len(running) < concurrency and (call := next(queue, None)) is not None:
            running.add(asyncio.create_task(client.send(call)))
        if not running:
            return
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            yield task.result()


async def poisson(client: Client, calls: Iterable[Call], rate: float, seed: int) -> AsyncIterator[Sample]:
    """Open loop: requests arrive at `rate` per second with exponential gaps, whatever the server does."""
    rng = np.random.default_rng(seed)
    running = []
    for call in calls:
        running.append(asyncio.create_task(client.send(call)))
        await asyncio.sleep(rng.exponential(1.0 / rate))
    for task in asyncio.as_completed(running):
        yield await task
