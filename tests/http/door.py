"""The real door on a real socket, under a real supervisor, in front of the scripted engine."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
import msgspec
import orjson

from runtime.actors.supervisor import Group, Supervisor
from runtime.clock import SystemClock
from runtime.config import Config, HttpConfig, MetricsConfig
from runtime.http.app import make_app
from runtime.http.connection import Runner, serve
from runtime.http.info import ServerInfo
from runtime.http.plain_text import PLAIN_TEXT
from runtime.http.replies import Replies
from runtime.http.server import Http
from runtime.output_plan import OutputParsing
from tests.http.scripted import Engine, Rest, Script, Step

VOCAB_SIZE = 1000
CONTEXT_LENGTH = 64
MODEL = "org/tiny"

INFO = ServerInfo(
    model_path="/models/tiny",
    tokenizer_path="/models/tiny",
    served_model_name=MODEL,
    context_length=CONTEXT_LENGTH,
    vocab_size=VOCAB_SIZE,
    max_total_num_tokens=128,
    version="0.1.0",
    started_at=1_700_000_000,
    flags={"schedule_policy": "lpm"},
)

CANARY = {"text": "canary", "sampling_params": {"max_new_tokens": 5, "sampling_seed": 3}}


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The envelope; fails if it is not one."""
        assert self.headers["Content-Type"] == "application/json"
        (name, error), *others = self.json.items()
        assert name == "error"
        assert not others
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)

    @property
    def events(self) -> list[Any]:
        """The JSON of each event; fails unless the last one is [DONE]."""
        *events, done, rest = self.body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        data = [event for event in events if not event.startswith(b":")]
        assert all(event.startswith(b"data: ") and b"\n" not in event for event in data)
        return [orjson.loads(event.removeprefix(b"data: ")) for event in data]


@dataclass
class Door:
    url: str
    port: int
    replies: Replies
    script: Script
    supervisor: Supervisor
    session: aiohttp.ClientSession
    runner: Runner

    def connections(self) -> list[Any]:
        """The server's side of all connections."""
        assert self.runner.server is not None
        return self.runner.server.connections

    async def request(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """`body` is sent as it is if it is bytes, else as JSON."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        data = None if raw is None else io.BytesIO(raw)
        async with self.session.request(method, self.url + path, data=data, **options) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.request("POST", path, body, **options)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def generate(self, text: str, num_tokens: int, **fields: Any) -> Answer:
        return await self.post("/generate", {"text": text, "sampling_params": {"max_new_tokens": num_tokens}, **fields})

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop turn until something is so; a hang fails by the timeout of the client."""
        async with asyncio.timeout(20):
            while not is_so():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)

    def release(self) -> None:
        """Let the paused sequences go on."""
        self.script.is_released = True
        self.supervisor.ref("test", "tokenizer").tell(Step())

    async def assert_unharmed(self) -> None:
        """Nothing is open, and the canary sings as ever."""
        await self.until(lambda: self.replies.num_open == 0 and not self.script.running)
        canary = (await self.post("/generate", CANARY)).json
        assert canary["output_ids"] == [7, 1, 3, 5, 6]


@asynccontextmanager
async def open_door(
    *, max_open: int = 512, log_requests: bool = False, output_parsing: OutputParsing = PLAIN_TEXT, **http: Any
) -> AsyncIterator[Door]:
    clock = SystemClock()
    supervisor = Supervisor(clock)
    script = Script()
    config = Config(http=HttpConfig(**{"request_timeout": 60.0, **http}), metrics=MetricsConfig(log_requests=log_requests))
    replies = Replies(
        supervisor.ref("http", "tokenizer"),
        supervisor.ref("http", "metrics"),
        clock,
        max_open=max_open,
        request_timeout_s=config.http.request_timeout,
    )
    make_engine = lambda: Engine(script, supervisor.ref("tokenizer", "http"), supervisor.ref("tokenizer", "tokenizer"))  # noqa: E731
    for name in ("scheduler", "cache", "metrics"):
        supervisor.add(Group(name, {name: lambda: Rest(script)}))
    supervisor.add(Group("tokenizer", {"tokenizer": make_engine}))
    supervisor.add(Group("http", {"http": lambda: Http(replies)}))
    await supervisor.start()
    refs = {name: supervisor.ref("http", name) for name in ("scheduler", "cache", "metrics", "tokenizer")}
    app = make_app(replies, config, INFO, clock=clock, seeds=Random(1), output_parsing=output_parsing, **refs)
    runner, port = await serve(app, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            yield Door(url, port, replies, script, supervisor, session, runner)
    finally:
        await runner.cleanup()
        await supervisor.stop()
