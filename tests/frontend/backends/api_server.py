"""A server in this process that answers as it is told, one answer after the other: the far side of API backends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DEADLINE_S = 30.0


@dataclass
class Answer:
    """`events` are written at once. If it `breaks`, the connection is cut after them; if it `hangs`, nothing follows.

    If it `drops`, the connection is cut without a word.
    """

    body: Any = None
    events: list[str] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    hangs: bool = False
    drops: bool = False


@dataclass
class Request:
    path: str
    body: Any
    headers: dict[str, str]


class ApiServer:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        """The last one is repeated."""
        self.url = ""
        self.asked = threading.Event()
        self.aborted = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        self._runner, port = self._call(self._start())
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def will(self, *answers: Answer) -> None:
        """Forget what was asked, and answer with these from now on."""
        self.requests.clear()
        self.asked.clear()
        self.aborted.clear()
        self.answers = deque(answers)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    async def _start(self) -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Request(request.path_qs, await request.json(), dict(request.headers)))
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if answer.drops:
            assert request.transport is not None
            request.transport.close()
        if answer.events is None and not answer.breaks and not answer.hangs:
            return web.json_response(answer.body, status=answer.status, headers=answer.headers)
        return await self._written(request, answer)

    async def _written(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        is_stream = answer.events is not None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream" if is_stream else "application/json"})
        if is_stream or answer.breaks:
            await response.prepare(request)
        data = "".join(answer.events or ()) if is_stream else json.dumps(answer.body)[:5]
        if data and response.prepared:
            await response.write(data.encode())
        if answer.hangs:
            await self._hang()
        if answer.breaks:
            assert request.transport is not None
            request.transport.close()
        return response

    async def _hang(self) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.aborted.set()
