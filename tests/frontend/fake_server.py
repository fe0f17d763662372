"""A server that speaks `/generate`, in this process: it records what it is asked and answers as it is told.

It splits texts into words. A generation is what `answer` makes of the body; a word's log probability depends on the word and on
all before it, so that any client which asks rightly sees the same numbers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

WORDS = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")

DEADLINE_S = 30.0

Body = dict[str, Any]


class FakeServer:
    """Use as a context manager. `url` may be followed by any path, which is recorded with the request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        """(method, path, body)"""
        self.answer: Callable[[Body], str] = lambda body: " fine"
        self.refuse: Callable[[Body], tuple[int, str] | None] = lambda body: None
        """A status and a body that is answered instead."""
        self.server_info: Body = {}
        self.open_doors = asyncio.Event()
        """While it is clear, generations wait."""
        self.num_open = 0
        self.max_open = 0
        self.num_aborted = 0
        self.url = ""
        self.breaks_streams = False
        self._counted_again = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        self._runner, port = self._call(self._start())
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.open_doors.set)
        self._call(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def bodies(self, path: str = "/generate") -> list[Any]:
        return [body for _, asked, body in self.requests if asked == path]

    def hold(self) -> None:
        """From now on generations wait."""
        self._loop.call_soon_threadsafe(self.open_doors.clear)

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self.open_doors.set)

    def wait_until_open(self, number: int) -> None:
        """Wait until just so many generations are being answered."""
        with self._counted_again:
            assert self._counted_again.wait_for(lambda: self.num_open == number, DEADLINE_S), f"{self.num_open} are open"

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    async def _start(self) -> tuple[web.AppRunner, int]:
        self.open_doors.set()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        return runner, runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.requests.append((request.method, request.path, body))
        match request.path.rsplit("/", 1)[-1]:
            case "generate":
                return await self._counted(request, body)
            case "get_model_info":
                return web.json_response({"model_path": "fake", "tokenizer_path": "fake", "is_generation": True})
            case "get_server_info":
                return web.json_response(self.server_info)
            case "flush_cache":
                return web.Response(text="Cache flushed.\n")
        return web.json_response({"error": {"message": f"nothing at {request.path}"}}, status=404)

    async def _counted(self, request: web.Request, body: Body) -> web.StreamResponse:
        self._count(+1)
        try:
            await self.open_doors.wait()
            return await self._generate(request, body)
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counted_again:
            self.num_open += change
            self.max_open = max(self.max_open, self.num_open)
            self._counted_again.notify_all()

    async def _generate(self, request: web.Request, body: Body) -> web.StreamResponse:
        refusal = self.refuse(body)
        if refusal is not None:
            return web.Response(status=refusal[0], text=refusal[1], content_type="application/json")
        if body.get("stream"):
            return await self._stream(request, body)
        if isinstance(body.get("text"), list):
            return web.json_response([self._answer_to({**body, "text": text}) for text in body["text"]])
        if "input_ids" in body:
            return web.json_response([self._answer_to({**body, "text": _text_of(ids)}) for ids in body["input_ids"]])
        return web.json_response(self._answer_to(body))

    async def _stream(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for answer in self._answers(body):
            await response.write(b"data: " + json.dumps(answer).encode() + b"\n\n")
            await self.open_doors.wait()
        if not self.breaks_streams:
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _answers(self, body: Body) -> AsyncIterator[Body]:
        whole = self._answer_to(body)
        words = WORDS.findall(whole["text"])
        for number in range(1, len(words) + 1):
            yield {**whole, "text": "".join(words[:number])}

    def _answer_to(self, body: Body) -> Body:
        words = WORDS.findall(body["text"])
        text = self.answer(body) if body["sampling_params"].get("max_new_tokens") else ""
        meta_info: Body = {
            "id": "0",
            "finish_reason": {"type": "stop", "matched": 0},
            "prompt_tokens": len(words),
            "completion_tokens": len(WORDS.findall(text)),
            "cached_tokens": 0,
        }
        if body.get("return_logprob"):
            meta_info["input_token_logprobs"] = scores_of(words, body.get("logprob_start_len", -1))
            meta_info["output_token_logprobs"] = []
        return {"text": text, "meta_info": meta_info}


def scores_of(words: list[str], start: int) -> list[tuple[float | None, int, str]]:
    """As SGLang 0.4.3 gives them: all but a null first for a start of 0, and those after the one behind `start` else."""
    scores = [(_logprob(words[: index + 1]) if index else None, _id_of(word), word) for index, word in enumerate(words)]
    if start < 0:
        return []
    return scores if start == 0 else scores[start + 1 :]


def _logprob(words: list[str]) -> float:
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return -8.0 * int.from_bytes(digest[:4], "big") / 2**32


_ids: dict[str, int] = {}
_words: dict[int, str] = {}


def _id_of(word: str) -> int:
    token_id = _ids.setdefault(word, len(_ids))
    _words[token_id] = word
    return token_id


def _text_of(token_ids: list[int]) -> str:
    return "".join(_words[token_id] for token_id in token_ids)
