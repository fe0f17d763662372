"""Streams, byte for byte, and what they do when something goes wrong or the reader is slow."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from typing import Any

import orjson
import pytest

from runtime.http import stream as stream_module
from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import expected

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with open_door(**options) as door:
            await test(door)
            await door.assert_unharmed()

    asyncio.run(main())


def body_of(path: str, text: str, num_tokens: int, **fields: Any) -> dict[str, Any]:
    """A stream with seed 7."""
    if path == GENERATE:
        return {"text": text, "stream": True, "sampling_params": {"max_new_tokens": num_tokens, "sampling_seed": 7} | fields}
    prompt = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    return prompt | {"stream": True, "max_tokens": num_tokens, "seed": 7} | fields


def test_the_bytes_of_a_chat_stream() -> None:
    async def test(door: Door) -> None:
        answer = await door.post(CHAT, body_of(CHAT, "hi", 1))
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        created = answer.events[0]["created"]
        head = f'"id":"{answer.headers["x-request-id"]}","object":"chat.completion.chunk","created":{created},"model":"{MODEL}"'
        deltas = [
            ('{"role":"assistant","content":"","reasoning_content":null}', "null"),
            (f'{{"content":{orjson.dumps(expected("hi", 1, 7)).decode()},"reasoning_content":null}}', "null"),
            ('{"content":null,"reasoning_content":null}', '"length"'),
        ]
        lines = [
            f'data: {{{head},"choices":[{{"index":0,"delta":{delta},'
            f'"logprobs":null,"finish_reason":{finish},"matched_stop":null}}]}}'
            for delta, finish in deltas
        ]
        assert answer.body.decode() == "\n\n".join([*lines, "data: [DONE]", ""])

    run(test)


def test_the_bytes_of_a_completion_stream() -> None:
    async def test(door: Door) -> None:
        answer = await door.post(COMPLETIONS, body_of(COMPLETIONS, "hi", 1, model="default"))
        created = answer.events[0]["created"]
        text = orjson.dumps(expected("hi", 1, 7)).decode()
        assert answer.body.decode() == (
            f'data: {{"id":"{answer.headers["x-request-id"]}","object":"text_completion","created":{created},"model":"default",'
            f'"choices":[{{"index":0,"text":{text},"logprobs":null,"finish_reason":"length","matched_stop":null}}]}}\n\n'
            "data: [DONE]\n\n"
        )

    run(test)


def texts_of(path: str, events: list[Any]) -> dict[int, str]:
    """The whole text of each choice, by index."""
    texts: dict[int, str] = defaultdict(str)
    for event in events:
        if path == GENERATE:
            texts[event.get("index", 0)] = event["text"]
            continue
        for choice in event["choices"]:
            texts[choice["index"]] += (choice["delta"]["content"] or "") if path == CHAT else choice["text"]
    return dict(texts)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
def test_a_stream_says_what_a_whole_reply_says(path: str) -> None:
    async def test(door: Door) -> None:
        body = body_of(path, "tell me", 20, n=3)
        events = (await door.post(path, body)).events
        texts = [expected("tell me", 20, 7 + choice) for choice in range(3)]
        assert texts_of(path, events) == dict(enumerate(texts))
        whole = (await door.post(path, body | {"stream": False})).json
        if path == GENERATE:
            assert [result["text"] for result in whole] == texts
            return
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        content = [choice["message"]["content"] if path == CHAT else choice["text"] for choice in whole["choices"]]
        assert content == texts
        finishes = [choice["finish_reason"] for event in events for choice in event["choices"]]
        assert finishes.count("length") == 3
        assert set(finishes) == {None, "length"}

    run(test)


def test_native_events_are_cumulative_and_batches_are_numbered() -> None:
    async def test(door: Door) -> None:
        body = {"text": ["pause:3 a", "b"], "stream": True, "sampling_params": {"max_new_tokens": 6, "sampling_seed": 0}}
        async with door.session.post(door.url + GENERATE, json=body) as response:
            chunk = await response.content.readuntil(b"\n\n")
            assert orjson.loads(chunk[6:])["meta_info"]["finish_reason"] is None
            door.release()
            rest = chunk + await response.read()
        events = [orjson.loads(line[6:]) for line in rest.split(b"\n\n")[:-2]]
        assert rest.endswith(b"data: [DONE]\n\n")
        for index, text in enumerate(["pause:3 a", "b"]):
            mine = [event for event in events if event["index"] == index]
            for event in mine:
                num_tokens = event["meta_info"]["completion_tokens"]
                assert event["text"] == expected(text, num_tokens)
                assert len(event["output_ids"]) == num_tokens
                assert ("e2e_latency" in event["meta_info"]) == (num_tokens == 6)
            assert mine[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 6}
        assert len({event["meta_info"]["id"] for event in events}) == 2
        (single,) = {"index" in event for event in (await door.generate("x", 3, stream=True)).events}
        assert not single

    run(test)


def test_usage_comes_once_before_the_end_if_asked_for() -> None:
    async def test(door: Door) -> None:
        for path in (CHAT, COMPLETIONS):
            plain = (await door.post(path, body_of(path, "hi", 4, n=2))).events
            assert all("usage" not in event and event["choices"] for event in plain)
            options = {"include_usage": True}
            events = (await door.post(path, body_of(path, "hi", 4, n=2, stream_options=options))).events
            assert events[-1]["choices"] == []
            assert events[-1]["usage"] == {
                "prompt_tokens": 2,
                "completion_tokens": 8,
                "total_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 0},
                "reasoning_tokens": 0,
            }
            assert all("usage" not in event for event in events[:-1])
            options = {"continuous_usage_stats": True}
            events = (await door.post(path, body_of(path, "hi", 4, stream_options=options))).events
            counts = [event["usage"]["completion_tokens"] for event in events]
            assert counts == sorted(counts)
            assert counts[-1] == 4

    run(test, enable_cache_report=True)


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
def test_a_failure_before_the_first_text_is_a_status(path: str, is_streaming: bool) -> None:
    async def test(door: Door) -> None:
        answer = await door.post(path, body_of(path, "fail", 4) | {"stream": is_streaming})
        assert answer.status == 400
        assert answer.error["code"] == "context_length_exceeded"
        assert answer.error["param"] == "prompt"

    run(test)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
def test_a_failure_after_the_first_text_is_an_event(path: str) -> None:
    async def test(door: Door) -> None:
        async with door.session.post(door.url + path, json=body_of(path, "fail:3", 9)) as response:
            assert response.status == 200
            data = await response.read()
        *events, error, done, _ = data.split(b"\n\n")
        assert done == b"data: [DONE]"
        assert orjson.loads(error[6:])["error"]["code"] == "context_length_exceeded"
        assert events
        assert b'"stop"' not in data

    run(test)


def test_one_failing_choice_ends_its_siblings() -> None:
    async def test(door: Door) -> None:
        answer = await door.post(GENERATE, {"text": ["hold", "fail", "hold"], "stream": True})
        assert answer.status == 400
        await door.until(lambda: len(door.script.aborts) == 2)
        failed = door.script.tokenized[1].request_id
        assert failed not in {abort.request_id for abort in door.script.aborts}

    run(test)


def test_a_silent_stream_starts_and_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FIRST_BYTE_S", 0.01)
    monkeypatch.setattr(stream_module, "PING_S", 0.01)

    async def test(door: Door) -> None:
        body = body_of(CHAT, "pause:0", 2)
        async with door.session.post(door.url + CHAT, json=body) as response:
            assert response.status == 200
            assert await response.content.readexactly(16) == b": ping\n\n: ping\n\n"
            door.release()
            rest = await response.read()
        assert rest.lstrip(b": ping\n").startswith(b'data: {"id"')
        assert rest.endswith(b"data: [DONE]\n\n")

    run(test)


def test_a_failure_after_a_ping_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FIRST_BYTE_S", 0.01)

    async def test(door: Door) -> None:
        async with door.session.post(door.url + CHAT, json=body_of(CHAT, "hold", 2)) as response:
            assert await response.content.readexactly(8) == b": ping\n\n"
            door.replies.lose_all("test")
            error, done, _ = (await response.read()).split(b"\n\n")
        assert orjson.loads(error[6:])["error"]["code"] == "engine_restarting"
        assert done == b"data: [DONE]"

    run(test)


def test_text_is_escaped_and_never_cut_inside_a_character() -> None:
    async def test(door: Door) -> None:
        async with door.session.post(door.url + COMPLETIONS, json=body_of(COMPLETIONS, "long one", 200)) as response:
            text = ""
            async for line in response.content:
                if line.startswith(b"data: {"):
                    text += orjson.loads(line[6:])["choices"][0]["text"]
        assert text == expected("long one", 200, 7)
        assert set('\n\\"🎭é') <= set(text)

    run(test)


def test_stream_interval_is_the_number_of_tokens_per_event() -> None:
    async def test(door: Door) -> None:
        events = (await door.generate("x", 11, stream=True)).events
        counts = [event["meta_info"]["completion_tokens"] for event in events]
        assert counts[-1] == 11
        assert all(later - earlier >= 4 for earlier, later in zip([0, *counts], counts[:-1], strict=False))

    run(test, stream_interval=4)


async def raw_connection(door: Door, body: dict[str, Any], path: str = GENERATE) -> socket.socket:
    """A client that sends a request through a small receive buffer and then reads nothing."""
    data = orjson.dumps(body)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", door.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    await loop.sock_sendall(connection, head + data)
    return connection


def test_a_reader_that_does_not_read_grows_no_buffer() -> None:
    """The engine produces megabytes of cumulative events; the connection holds its high-water mark and the reply the rows."""

    async def test(door: Door) -> None:
        body = {"text": "endless", "stream": True, "sampling_params": {"max_new_tokens": None}}
        with await raw_connection(door, body):
            await door.until(lambda: door.script.num_steps > 6000)
            (server_side,) = (one for one in door.connections() if one.transport.get_write_buffer_size())
            assert server_side.transport.get_write_buffer_size() < 400_000
        await door.until(lambda: len(door.script.aborts) == 1)

    run(test)


def test_a_reader_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SLOW_READER_S", 0.0)

    async def test(door: Door) -> None:
        body = {"text": "endless", "stream": True, "sampling_params": {"max_new_tokens": None}}
        with await raw_connection(door, body):
            await door.until(lambda: bool(door.script.aborts))
            assert [abort.cause for abort in door.script.aborts] == ["deadline"]
            await door.until(lambda: not door.connections())

    run(test, request_timeout=0.5)
