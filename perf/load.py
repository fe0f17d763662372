"""The load generator: one process, one event loop, the same streaming `/v1/completions` requests for every engine.

It keeps timestamps only, no object per token, so that at these rates the client is not what is measured; text is read only
where the next call needs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import numpy as np
import orjson

from perf.call import Call, Session

HEADERS = {"Content-Type": "application/json"}


@dataclass
class Sample:
    """One request: seconds on the client's monotonic clock."""

    sent: float
    events: list[float] = field(default_factory=list)
    ended: float = 0.0
    num_tokens: int = 0
    error: str | None = None
    has_left: bool = False
    """The client went away as it was told to; counts are those of the events it saw."""

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

    async def play(self, session: Session) -> AsyncIterator[Sample]:
        """The session's calls one after the other; after an error the rest is left out."""
        said = ""
        for index, call in enumerate(session):
            is_followed = any(later.follows for later in session[index + 1 :])
            lines: list[bytes] | None = [] if is_followed else None
            if call.follows:
                call = replace(call, prompt=f"{said}{call.prompt}")
            sample = await self.send(call, lines)
            yield sample
            if sample.error is not None:
                return
            said = f"{call.prompt}{_text(lines or [])}"

    async def send(self, call: Call, lines: list[bytes] | None = None) -> Sample:
        """One request, streamed to its end; its events are added to `lines`. A refusal is a sample with its error."""
        assert self._session is not None
        sample = Sample(sent=time.perf_counter())
        try:
            async with self._session.post(self._url, data=self._body(call), headers=HEADERS) as response:
                if response.status != 200:
                    sample.error = f"{response.status}: {(await response.text())[:200]}"
                    return sample
                await _read_stream(response.content, sample, call.leaves_after, lines)
        except (aiohttp.ClientError, OSError) as error:
            sample.error = str(error) or type(error).__name__
        sample.ended = time.perf_counter()
        if sample.has_left:
            sample.num_tokens = len(sample.events)
        elif sample.error is None and not _is_enough(sample.num_tokens, call):
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
                **call.fields,
            }
        )


def _is_enough(num_tokens: int, call: Call) -> bool:
    return 0 < num_tokens <= call.num_output_tokens if call.may_end_early else num_tokens == call.num_output_tokens


async def _read_stream(
    content: aiohttp.StreamReader, sample: Sample, leaves_after: int | None, lines: list[bytes] | None
) -> None:
    async for line in content:
        _read(line, sample)
        if lines is not None and line.startswith(b"data: {"):
            lines.append(line)
        if leaves_after is not None and len(sample.events) >= leaves_after:
            sample.has_left = True
            return


def _text(lines: list[bytes]) -> str:
    choices = [choice for line in lines for choice in orjson.loads(line[6:])["choices"]]
    return "".join([choice["text"] for choice in choices])


def _read(line: bytes, sample: Sample) -> None:
    if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
        return
    sample.events.append(time.perf_counter())
    if b'"usage":{' in line or b'"usage": {' in line:
        sample.num_tokens = orjson.loads(line[5:])["usage"]["completion_tokens"]
    elif b'"error"' in line and _is_error(orjson.loads(line[5:])):
        sample.error = line[5:205].decode(errors="replace")


def _is_error(event: dict[str, Any]) -> bool:
    """Rather than an answer in which a model says so."""
    return "error" in event or event.get("object") == "error"


async def closed_loop(
    client: Client, sessions: Iterable[Session], concurrency: int, see: Callable[[Sample], object] = bool
) -> list[Sample]:
    """Keep `concurrency` clients busy until the sessions are used up. `see` is shown each sample as it comes."""
    waiting = iter(sessions)
    samples: list[Sample] = []

    async def work() -> None:
        for session in waiting:
            await _play(client, session, samples, see)

    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(work())
    return samples


async def poisson(
    client: Client, sessions: Iterable[Session], rate: float, seed: int, see: Callable[[Sample], object] = bool
) -> list[Sample]:
    """Open loop: sessions begin at `rate` per second with exponential gaps, whatever the server does."""
    rng = np.random.default_rng(seed)
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as clients:
        for session in sessions:
            clients.create_task(_play(client, session, samples, see))
            await asyncio.sleep(rng.exponential(1.0 / rate))
    return samples


async def _play(client: Client, session: Session, samples: list[Sample], see: Callable[[Sample], object]) -> None:
    async for sample in client.play(session):
        samples.append(sample)
        see(sample)
