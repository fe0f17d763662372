"""A batch service over a scripted door: a line's reply is a function of its body, and can be held back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.batch_port import Batch, LineReply, Load, NewBatch
from runtime.batches.batches import BatchEnvironment, Batches
from runtime.clock import SystemClock
from runtime.config import BatchConfig

CHAT = "/v1/chat/completions"
MODEL = "org/tiny"


@dataclass
class Door:
    """What the lines meet. `hold` keeps every reply back until it is set again."""

    ran: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    num_cancelled: int = 0
    num_slots: int = 8
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    num_failures: dict[str, int] = field(default_factory=dict)
    """How often a line gets a 503 before it is answered."""

    async def run_line(self, endpoint: str, body: bytes) -> LineReply:
        prompt = json.loads(body)["prompt"]
        self.ran.append(prompt)
        self.running.add(prompt)
        try:
            await self.hold.wait()
            return self._reply(prompt)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.running.discard(prompt)

    def _reply(self, prompt: str) -> LineReply:
        if prompt == "bug":
            raise ZeroDivisionError("nobody expected this")
        if prompt == "bad":
            return LineReply(400, "r-bad", b'{"error":{"message":"bad"}}')
        if self.num_failures.get(prompt, 0) > 0:
            self.num_failures[prompt] -= 1
            return LineReply(503, "r-lost", b'{"error":{"message":"lost"}}')
        return LineReply(200, f"r-{prompt}", json.dumps({"text": prompt.upper()}).encode())

    def load(self) -> Load:
        return Load(num_slots=self.num_slots, num_open=len(self.running))


@asynccontextmanager
async def open_batches(folder: Path, door: Door, names: itertools.count[int], **config: Any) -> AsyncIterator[Batches]:
    environment = BatchEnvironment(
        clock=SystemClock(),
        new_hex=lambda num_bytes: f"{next(names):0{2 * num_bytes}x}",
        endpoints=(CHAT, "/v1/completions"),
        is_served=lambda model: model == MODEL,
        load=door.load,
        run_line=door.run_line,
        max_line_bytes=10_000,
    )
    batches = Batches(BatchConfig(file_storage_path=str(folder), **config), environment)
    await batches.start()
    try:
        yield batches
    finally:
        await batches.stop()


def line(custom_id: str, prompt: str | None = None, **changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": custom_id if prompt is None else prompt}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body} | changes


def written(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


async def put(batches: Batches, content: bytes, purpose: str = "batch") -> str:
    upload = await batches.upload()
    await upload.write(content)
    return (await upload.finish("input.jsonl", purpose)).id


async def begin(batches: Batches, content: bytes, window_s: int = 3600) -> Batch:
    file_id = await put(batches, content)
    new = NewBatch(endpoint="/v1/completions", input_file_id=file_id, completion_window="1h", window_s=window_s)
    return await batches.create(new)


async def ended(batches: Batches, batch_id: str) -> Batch:
    async with asyncio.timeout(20):
        while (batch := await batches.batch(batch_id)).is_open:  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.002)
    return batch


async def rows(batches: Batches, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = (await batches.content(file_id)).read_bytes()
    assert (await batches.file(file_id)).bytes == len(content)
    return [json.loads(row) for row in content.splitlines()]
