"""The measurement of languages over real sockets: every client asks the same, and is measured in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from perf.language_bench import _parser, job_of, measure
from perf.language_client import CLIENTS
from runtime import extensions

META = {"prompt_tokens": 1, "completion_tokens": 3, "cached_tokens": 0}


class Server:
    """Answers all that the clients ask, on a loop of its own; remembers the prompts."""

    def __init__(self) -> None:
        self.prompts: list[tuple[str, int]] = []
        self.status = 200

    async def generate(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if body["sampling_params"]["max_new_tokens"]:  # else it only warms the prefix
            assert body["sampling_params"]["ignore_eos"]
            self.prompts.append((body["text"], body["sampling_params"]["max_new_tokens"]))
        answer: Any = {"text": " 1 2 3", "meta_info": META}
        return web.json_response(answer if self.status == 200 else {"error": {"message": "no"}}, status=self.status)

    async def complete(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.prompts.append((body["prompt"], body["max_tokens"]))
        event = b'data: {"choices":[{"text":" 1"}]}\n\ndata: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
        return web.Response(body=event, status=self.status, content_type="text/event-stream")

    async def describe(self, request: web.Request) -> web.Response:
        return web.json_response({"model_path": "tiny"})


@contextmanager
def serving(server: Server) -> Iterator[str]:
    urls: list[str] = []
    started, stop = threading.Event(), threading.Event()

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/generate", server.generate)
        app.router.add_post("/v1/completions", server.complete)
        app.router.add_get("/get_model_info", server.describe)
        app.router.add_get("/get_server_info", server.describe)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", extensions.names(CLIENTS))
def test_a_client_asks_every_question_behind_the_prefix(name: str) -> None:
    if importlib.util.find_spec(extensions.load(CLIENTS, name).PACKAGE) is None:
        pytest.skip("its package is not installed")
    server = Server()
    with serving(server) as url:
        flags = [
            "--base-url",
            url,
            "--clients",
            name,
            "--rounds",
            "2",
            "--num-questions",
            "6",
            "--num-tokens",
            "3",
            "--num-shots",
            "2",
        ]
        outcomes = measure(_parser().parse_args(flags))
    assert len(outcomes[name]) == 2
    assert all(outcome.seconds > 0 and outcome.cpu_s > 0 and outcome.peak_mb > 10 for outcome in outcomes[name])
    assert [num_tokens for _, num_tokens in server.prompts] == [3] * 12
    prompts = [prompt for prompt, _ in server.prompts]
    assert len(set(prompts)) == 12
    assert {prompt.count("Question:") for prompt in prompts} == {3}
    prefixes = {prompt[: prompt.rindex("Question:")] for prompt in prompts}
    assert len(prefixes) == 2, "the second round must find nothing in the cache"


def test_a_client_that_fails_ends_the_measurement() -> None:
    server = Server()
    server.status = 400
    with serving(server) as url, pytest.raises(SystemExit, match="the client raw failed: RuntimeError: 400"):
        measure(_parser().parse_args(["--base-url", url, "--clients", "raw", "--num-questions", "1"]))


def test_prefixes_are_equally_long_and_all_different() -> None:
    options, rng = _parser().parse_args(["--num-questions", "2"]), np.random.default_rng(1)
    prefixes = [job_of(options, rng).prefix for _ in range(5)]
    assert len(set(prefixes)) == 5
    assert len({prefix.count("Question") for prefix in prefixes}) == 1
