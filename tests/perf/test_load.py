"""The load generator over real sockets: what it asks, what it counts, and what it calls an error."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from perf.call import Call, Session
from perf.load import Client, Sample, closed_loop, poisson
from perf.summary import summarize


class Echo:
    """Answers with as many words as tokens are asked for, unless told otherwise; remembers the bodies."""

    def __init__(self, num_missing: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.num_open = self.most_open = 0
        self._num_missing = num_missing

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        if body["prompt"] == "bad":
            return web.Response(status=400, text="no")
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        response = web.StreamResponse()
        await response.prepare(request)
        if body["prompt"] == "fails later":
            await response.write(b'data: {"error":{"message":"lost"}}\n\ndata: [DONE]\n\n')
            return response
        if body["prompt"] == "says error":
            await response.write(b'data: {"choices":[{"text":"error"}]}\n\n')
        num_tokens = body["max_tokens"] - self._num_missing
        for number in range(num_tokens):
            await response.write(b'data: {"choices":[{"text":" w%d"}]}\n\n' % number)
            await asyncio.sleep(0)
        await response.write(b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\ndata: [DONE]\n\n' % num_tokens)
        self.num_open -= 1
        return response


def play(echo: Echo, sessions: list[Session], concurrency: int = 2, rate: float | None = None) -> list[Sample]:
    async def run() -> list[Sample]:
        app = web.Application()
        app.router.add_post("/v1/completions", echo.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
                if rate is not None:
                    return await poisson(client, sessions, rate, 1)
                return await closed_loop(client, sessions, concurrency)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_a_closed_loop_keeps_its_number_of_clients_busy() -> None:
    echo = Echo()
    samples = play(echo, [(Call([1, 2], 5),)] * 9, concurrency=3)
    assert [sample.error for sample in samples] == [None] * 9
    assert echo.most_open == 3
    summary = summarize(samples)
    assert (summary.num_requests, summary.num_errors) == (9, 0)
    assert all(sample.num_tokens == 5 for sample in samples)


def test_an_open_loop_sends_everything() -> None:
    assert len(play(Echo(), [(Call([1], 2),)] * 9, rate=1000.0)) == 9


def test_what_follows_repeats_what_was_said() -> None:
    echo = Echo()
    play(echo, [(Call("one", 2), Call("two", 1, follows=True), Call("three", 1, follows=True))])
    assert [body["prompt"] for body in echo.bodies] == ["one", "one w0 w1two", "one w0 w1two w0three"]


def test_a_client_that_leaves_is_no_error() -> None:
    (sample,) = play(Echo(), [(Call([1], 500, leaves_after=3),)])
    assert (sample.has_left, sample.num_tokens, sample.error) == (True, 3, None)


def test_too_few_tokens_and_refusals_are_errors() -> None:
    samples = play(
        Echo(num_missing=1), [(Call([1], 3),), (Call([1], 3, may_end_early=True),), (Call("bad", 3), Call("x", 1))], 1
    )
    assert [sample.error for sample in samples] == ["asked for 3 tokens, got 2", None, "400: no"]


def test_an_error_in_a_stream_is_told_from_a_word() -> None:
    samples = play(Echo(), [(Call("fails later", 3),), (Call("says error", 3),)], 1)
    assert samples[0].error is not None
    assert "lost" in samples[0].error
    assert samples[1].error is None
