"""Every error that a request can meet, at every door that generates, as a stream and not: one status, type, code and form."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from runtime.errors import InternalError
from runtime.messages import EngineLost, RequestFailed
from tests.http.door import Answer, Door, open_door

MESSAGES = "/v1/messages"


def body_of(path: str, text: str, num_tokens: int = 2) -> dict[str, Any]:
    if path == "/generate":
        return {"text": text, "sampling_params": {"max_new_tokens": num_tokens}}
    if path == "/vertex_generate":
        return {"instances": [{"text": text}], "parameters": {"max_new_tokens": num_tokens}}
    if path == "/v1/completions":
        return {"prompt": text, "max_tokens": num_tokens}
    if path == "/v1/responses":
        return {"input": text, "max_output_tokens": num_tokens}
    turns = {"messages": [{"role": "user", "content": text}], "max_tokens": num_tokens}
    return turns | {"model": "default"} if path == MESSAGES else turns


DOORS = ["/generate", "/v1/completions", "/v1/chat/completions", "/invocations", "/v1/responses", MESSAGES]
CASES = [(path, is_streaming) for path in DOORS for is_streaming in (False, True)] + [("/vertex_generate", False)]

Send = Callable[..., Awaitable[Answer]]


@dataclass
class Row:
    """One error: how the door is opened and what makes it happen; what the answer must be."""

    attack: Callable[[Door, Send], Awaitable[Answer]]
    status: int
    type: str
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    closes: bool = False


async def bad_json(door: Door, send: Send) -> Answer:
    return await send(raw=b'{"a": ')


async def too_long(door: Door, send: Send) -> Answer:
    return await send("fail")


async def no_key(door: Door, send: Send) -> Answer:
    return await send("hi", headers={"Authorization": "Bearer other"})


async def wrong_method(door: Door, send: Send) -> Answer:
    return await send("hi", method="DELETE")


async def too_large(door: Door, send: Send) -> Answer:
    return await send(raw=b" " * 5000)


async def compressed(door: Door, send: Send) -> Answer:
    return await send("hi", headers={"Content-Encoding": "gzip"})


async def queue_full(door: Door, send: Send) -> Answer:
    held = asyncio.create_task(door.generate("hold", 2))
    await door.until(lambda: door.replies.num_open == 1)
    answer = await send("hi")
    door.replies.cancel_labelled(None)
    await held
    return answer


async def draining(door: Door, send: Send) -> Answer:
    door.replies.refuse()
    answer = await send("hi")
    door.replies.is_draining = False
    return answer


async def deadline(door: Door, send: Send) -> Answer:
    return await send("hold")


async def engine_fault(door: Door, send: Send) -> Answer:
    asked = asyncio.create_task(send("hold"))
    await door.until(lambda: bool(door.script.tokenized))
    failure = InternalError("the server failed on this request").failure
    request_id = door.script.tokenized[-1].request_id
    door.supervisor.ref("scheduler", "http").tell(RequestFailed(request_id=request_id, failure=failure))
    door.script.running.clear()
    return await asked


async def engine_lost(door: Door, send: Send) -> Answer:
    asked = asyncio.create_task(send("hold"))
    await door.until(lambda: bool(door.script.tokenized))
    door.supervisor.ref("scheduler", "http").tell(EngineLost(reason="Traceback at 0xdeadbeef"))
    return await asked


RETRY = {"x-should-retry": "true"}
ROWS = {
    "bad JSON": Row(bad_json, 400, "invalid_request_error"),
    "prompt too long": Row(too_long, 400, "invalid_request_error", "context_length_exceeded"),
    "wrong key": Row(
        no_key,
        401,
        "authentication_error",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
        options={"api_key": "secret"},
    ),
    "wrong method": Row(wrong_method, 405, "invalid_request_error", "method_not_allowed"),
    "body too large": Row(
        too_large, 413, "invalid_request_error", "body_too_large", options={"max_body_bytes": 4096}, closes=True
    ),
    "compressed body": Row(compressed, 415, "invalid_request_error"),
    "queue full": Row(
        queue_full, 503, "overloaded_error", "queue_full", headers=RETRY | {"Retry-After": "1"}, options={"max_open": 1}
    ),
    "draining": Row(draining, 503, "unavailable_error", "draining", headers=RETRY | {"Retry-After": "5"}, closes=True),
    "deadline": Row(
        deadline,
        504,
        "timeout_error",
        "deadline_exceeded",
        headers={"x-should-retry": "false"},
        options={"request_timeout": 0.2},
    ),
    "engine fault": Row(engine_fault, 500, "server_error", headers={"x-should-retry": "false"}),
    "engine lost": Row(engine_lost, 503, "unavailable_error", "engine_restarting", headers=RETRY | {"Retry-After": "5"}),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("path", "is_streaming"), CASES)
def test_every_error_at_every_door(path: str, is_streaming: bool, name: str) -> None:
    row = ROWS[name]
    key = row.options.get("api_key")

    async def main() -> None:
        async with open_door(**row.options) as door:

            async def send(
                text: str = "", *, raw: bytes | None = None, method: str = "POST", headers: dict[str, str] | None = None
            ) -> Answer:
                body: Any = body_of(path, text) | ({"stream": True} if is_streaming else {}) if raw is None else raw
                return await door.request(method, path, body, headers=headers or {})

            check(await row.attack(door, send), row, path)
            await door.until(lambda: door.replies.num_open == 0 and not door.script.running)
            if key is None and name != "deadline":
                await door.assert_unharmed()

    asyncio.run(main())


def check(answer: Answer, row: Row, path: str) -> None:
    assert answer.status == row.status, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f]{8}-\d+", answer.headers["x-request-id"])
    assert row.headers.items() <= dict(answer.headers).items()
    assert (answer.headers.get("Connection") == "close") == row.closes
    assert not re.search(rb"Traceback|0x[0-9a-f]{6}|site-packages|\.py", answer.body)
    assert len(answer.body) < 600
    if path == MESSAGES:
        assert answer.json["type"] == "error"
        assert set(answer.json["error"]) >= {"type", "message"}
    else:
        assert (answer.error["type"], answer.error["code"]) == (row.type, row.code), answer.body
