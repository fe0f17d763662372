"""What stands around the endpoints: keys, errors, ids, limits, health, information, draining and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from aiohttp import web

from runtime.errors import StartError
from runtime.http import connection
from runtime.http.connection import check_address, serve
from runtime.http.endpoints import health
from runtime.http.progress import STALL_S, Progress
from runtime.http.service import SERVICE
from runtime.messages import SchedulerState
from tests.http.door import INFO, Door, open_door
from tests.http.scripted import Engine

PUBLIC = {"/health", "/health_generate", "/ready", "/livez", "/ping"}


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with open_door(**options) as door:
            await test(door)

    asyncio.run(main())


def routes_of(door: Door) -> set[tuple[str, str]]:
    assert door.runner.app is not None
    return {
        (route.method, route.resource.canonical.replace("{model}", "x"))
        for route in door.runner.app.router.routes()
        if route.resource is not None
    }


def test_every_route_needs_the_key_but_those_for_health() -> None:
    async def test(door: Door) -> None:
        routes = routes_of(door)
        assert {path for _, path in routes} > PUBLIC
        wrong = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}, {"Authorization": "Basic s3cret"})
        for method, path in [*sorted(routes), ("GET", "/nowhere"), ("POST", "//v1/completions"), ("POST", "/V1/completions")]:
            for headers in wrong:
                answer = await door.request(method, path, headers=headers)
                if path in PUBLIC:
                    assert answer.status == 200
                    continue
                assert answer.status == 401, (method, path)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                if method != "HEAD" and not path.startswith("/v1/messages"):  # those have an envelope of their own
                    assert answer.error["code"] == "invalid_api_key"
                    assert b"s3cret" not in answer.body
            right = await door.request(method, path, headers={"Authorization": "bearer s3cret"})
            assert right.status != 401, (method, path)
        assert (await door.request("OPTIONS", "/generate")).status == 200
        info = await door.get("/get_server_info", headers={"Authorization": "Bearer s3cret"})
        assert b"s3cret" not in info.body

    run(test, api_key="s3cret")


def test_without_a_key_any_token_will_do() -> None:
    async def test(door: Door) -> None:
        assert (await door.get("/v1/models", headers={"Authorization": "Bearer None"})).status == 200

    run(test)


def test_unknown_paths_and_methods_have_the_envelope() -> None:
    async def test(door: Door) -> None:
        for method, path in [("GET", "/nowhere"), ("POST", "/"), ("DELETE", "/generate"), ("GET", "/v1/chat/completions")]:
            answer = await door.request(method, path)
            assert answer.status == (404 if path == "/nowhere" else 405)
            assert answer.error["message"]
        assert set((await door.get("/generate")).headers["Allow"].split(",")) == {"POST", "PUT"}
        put = await door.request("PUT", "/generate", {"text": "x", "sampling_params": {"max_new_tokens": 1}})
        assert put.status == 200

    run(test)


def test_every_response_has_its_own_id_and_cors() -> None:
    async def test(door: Door) -> None:
        answers = [
            await door.get("/"),
            await door.get("/nowhere"),
            await door.post("/generate", b"{"),
            await door.generate("x", 2),
            await door.generate("x", 2, stream=True),
            await door.request("OPTIONS", "/v1/chat/completions"),
        ]
        assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
        assert {answer.headers["Access-Control-Allow-Origin"] for answer in answers} == {"*"}

    run(test)


def test_unexpected_exceptions_are_a_500_with_a_fixed_text(caplog: pytest.LogCaptureFixture) -> None:
    async def test(door: Door) -> None:
        assert door.runner.app is not None
        object.__setattr__(door.runner.app[SERVICE], "info", None)
        answer = await door.post("/v1/completions", {"prompt": "secret"})
        assert answer.status == 500
        assert answer.error["type"] == "server_error"
        assert b"NoneType" not in answer.body
        assert answer.headers["x-should-retry"] == "false"
        object.__setattr__(door.runner.app[SERVICE], "info", INFO)
        await door.assert_unharmed()

    run(test)
    assert any("NoneType" in record.getMessage() for record in caplog.records)


async def raw(door: Door, data: bytes) -> bytes:
    """What the server says to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 20_000 + b": x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(500)) + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
    ids=lambda value: str(value)[:30],
)
def test_malformed_http_gets_the_envelope_and_the_connection_closed(data: bytes, status: int) -> None:
    async def test(door: Door) -> None:
        answer = await raw(door, data)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == str(status).encode(), (data[:50], answer[:100])
        assert b"x-request-id:" in head.lower()
        assert b"access-control-allow-origin: *" in head.lower()
        assert b'"type":"invalid_request_error"' in body
        await door.assert_unharmed()

    run(test)


@pytest.mark.parametrize("data", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX: "], ids=["url", "header"])
def test_a_megabyte_of_head_closes_the_connection(data: bytes) -> None:
    """Whether the sender, who is still busy, sees the answer is up to its network."""

    async def test(door: Door) -> None:
        answer = await raw(door, data + b"x" * 2**20 + b" HTTP/1.1\r\n\r\n")
        assert answer == b"" or answer.split(b" ")[1] in (b"414", b"431")
        await door.until(lambda: not door.connections())
        await door.assert_unharmed()

    run(test)


def test_bodies_have_limits() -> None:
    async def test(door: Door) -> None:
        for options in ({}, {"chunked": True}):
            answer = await door.post("/generate", b" " * 5000, **options)
            assert answer.status == 413
            assert answer.error["code"] == "body_too_large"
        # A body that says its size is refused before it is read.
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        assert (await raw(door, head)).startswith(b"HTTP/1.1 413 ")
        for encoding in ("gzip", "deflate", "br"):
            answer = await door.post("/generate", b"\x1f\x8b", headers={"Content-Encoding": encoding}, compress=None)
            assert answer.status == 415
            assert answer.error["type"] == "invalid_request_error"
        for content_type in ("text/plain", "application/json; charset=utf-8", "application/x-www-form-urlencoded"):
            body = {"text": "x", "sampling_params": {"max_new_tokens": 1}}
            assert (await door.post("/generate", body, headers={"Content-Type": content_type})).status == 200
        await door.assert_unharmed()

    run(test, max_body_bytes=4096)


def test_a_slow_upload_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.http.body.UPLOAD_TIMEOUT_S", 0.01)

    async def test(door: Door) -> None:
        answer = await raw(door, b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        await door.assert_unharmed()

    run(test)


def test_headers_that_never_end_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_TIMEOUT_S", 0.05)

    async def test(door: Door) -> None:
        for begun in (b"", b"POST /generate HTTP/1.1\r\nHost: x\r\nX-a: "):
            assert await raw(door, begun) == b""
        async with door.session.get(door.url + "/livez") as response:
            assert response.status == 200
        whole = await door.generate("a", 3)
        assert whole.status == 200

    run(test)


@pytest.mark.parametrize(
    ("expectation", "length", "status"),
    [("foo", 2, b"417"), ("100-continue", 2**40, b"413"), ("100-continue", 2, b"100")],
)
def test_expectations_are_answered_before_the_body(expectation: str, length: int, status: bytes) -> None:
    async def test(door: Door) -> None:
        fields = ["Host: x", "Connection: close", f"Expect: {expectation}", f"Content-Length: {length}"]
        head = "\r\n".join(["POST /generate HTTP/1.1", *fields, "", ""])
        answer = await raw(door, head.encode() + (b"{}" if status == b"100" else b""))
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b'"error"' in answer
        assert b"x-request-id" in answer

    run(test)


def test_a_busy_port_is_one_clear_line() -> None:
    async def test(door: Door) -> None:
        line = f"can not listen on 127.0.0.1:{door.port}: .*--port"
        with pytest.raises(StartError, match=line):
            check_address("127.0.0.1", door.port)
        with pytest.raises(StartError, match=line):
            await serve(web.Application(), "127.0.0.1", door.port)
        await door.assert_unharmed()

    check_address("127.0.0.1", 0)
    run(test)


def test_information() -> None:
    async def test(door: Door) -> None:
        paths = {"model_path": INFO.model_path, "tokenizer_path": INFO.tokenizer_path, "is_generation": True}
        assert (await door.get("/get_model_info")).json == paths
        assert paths.items() < (await door.get("/model_info")).json.items()
        for path in ("/get_server_info", "/server_info"):
            info = (await door.get(path)).json
            assert (info["status"], info["max_total_num_tokens"], info["version"]) == ("ready", 128, "0.1.0")
            assert info["schedule_policy"] == "lpm"
            (state,) = info["internal_states"]
            assert (state["num_pages"], state["num_running"], state["num_open_requests"]) == (8, 0, 0)
        (card,) = (await door.get("/v1/models")).json["data"]
        assert (card["id"], card["max_model_len"]) == (INFO.served_model_name, INFO.context_length)
        assert (await door.get(f"/v1/models/{card['id']}")).json == card
        missing = await door.get("/v1/models/nobody/else")
        assert (missing.status, missing.error["code"]) == (404, "model_not_found")
        metrics = await door.get("/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert metrics.body.startswith(b"sglang:")
        assert (await door.get("/")).status == 200

    run(test)


def test_flush_cache() -> None:
    async def test(door: Door) -> None:
        for method in ("GET", "POST"):
            answer = await door.request(method, "/flush_cache", headers={"Content-Type": "application/json"})
            assert (answer.status, answer.body[:14]) == (200, b"Cache flushed.")
        door.script.num_leases = [2, 1, 0]  # a request that has just ended
        assert (await door.post("/flush_cache", b"")).status == 200
        door.script.num_leases = [1]
        answer = await door.post("/flush_cache?timeout=0", b"")
        assert (answer.status, answer.error["code"]) == (400, "cache_in_use")
        for timeout in ("x", "-1", "nan", "1e9"):
            assert (await door.post(f"/flush_cache?timeout={timeout}", b"")).error["param"] == "timeout"

    run(test)


def test_health() -> None:
    async def test(door: Door) -> None:
        for path in PUBLIC:
            answer = await door.get(path)
            assert (answer.status, answer.body) == (200, b"")
        assert len(door.script.stats) == 0, "health checks are not counted as requests"
        door.replies.refuse()
        for path in PUBLIC - {"/livez"}:
            answer = await door.get(path)
            assert (answer.status, answer.error["code"]) == (503, "draining")
        assert (await door.get("/livez")).status == 200

    run(test)


def test_health_generate_waits_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "GENERATE_DEADLINE_S", 0.01)
    monkeypatch.setattr(Engine, "advance", lambda self, sequence: ())

    async def test(door: Door) -> None:
        answer = await door.get("/health_generate")
        assert (answer.status, answer.error["code"]) == (503, "stalled")
        await door.until(lambda: len(door.script.aborts) == 1)

    run(test)


def test_progress_is_the_step_counter_while_there_is_work() -> None:
    def state(num_steps: int, num_running: int = 1) -> SchedulerState:
        return SchedulerState(num_steps=num_steps, num_waiting=0, num_running=num_running, num_in_flight_steps=0)

    progress = Progress()
    late = 100 + STALL_S + 1
    assert not progress.is_stalled(state(5), 100.0, 0.0)
    assert not progress.is_stalled(state(5), 100 + STALL_S, 0.0)
    assert progress.is_stalled(state(5), late, 0.0)
    assert not progress.is_stalled(state(5, num_running=0), late, 0.0), "nothing to do"
    assert not progress.is_stalled(state(5), late, late - 1), "the work has just come"
    assert not progress.is_stalled(state(6), late, 0.0)
    assert progress.is_stalled(state(6), late + STALL_S + 1, 0.0)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_too_many_requests_are_refused_at_once(is_streaming: bool) -> None:
    async def test(door: Door) -> None:
        async with asyncio.TaskGroup() as group:
            held = [group.create_task(door.generate("pause:0", 3, stream=is_streaming)) for _ in range(3)]
            await door.until(lambda: len(door.script.tokenized) == 3)
            for path, body in [
                ("/generate", {"text": ["a", "b"]}),
                ("/v1/completions", {"prompt": "a", "n": 2}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 2}),
            ]:
                answer = await door.post(path, body | {"stream": is_streaming})
                assert (answer.status, answer.error["type"], answer.error["code"]) == (503, "overloaded_error", "queue_full")
                assert 1 <= int(answer.headers["Retry-After"]) <= 60
                assert answer.headers["x-should-retry"] == "true"
            assert (await door.generate("fits", 1)).status == 200
            door.release()
        assert all(task.result().status == 200 for task in held)
        await door.assert_unharmed()

    run(test, max_open=4)


@pytest.mark.parametrize("is_in_time", [True, False])
def test_draining(is_in_time: bool) -> None:
    async def test(door: Door) -> None:
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(door.generate("pause:3", 6))
            started = group.create_task(door.generate("pause:3", 6, stream=True))
            await door.until(lambda: len(door.script.tokenized) == 2)
            await door.until(lambda: all(sequence.num_tokens == 3 for sequence in door.script.running.values()))
            door.replies.refuse()
            refused = await door.generate("late", 1)
            assert (refused.status, refused.error["code"]) == (503, "draining")
            assert (refused.headers["Connection"], refused.headers["Retry-After"]) == ("close", "5")
            assert (await door.get("/server_info")).json["status"] == "draining"
            if is_in_time:
                door.release()
            drained = await door.replies.wait_idle(20.0 if is_in_time else 0.0)
        assert drained == (0 if is_in_time else 2)
        if is_in_time:
            assert whole.result().json["meta_info"]["completion_tokens"] == 6
            assert started.result().events[-1]["meta_info"]["completion_tokens"] == 6
            return
        assert (whole.result().status, whole.result().error["code"]) == (503, "draining")
        assert started.result().events[-1]["error"]["code"] == "draining"
        assert {abort.cause for abort in door.script.aborts} == {"deadline"}

    run(test)


def test_an_engine_restart_fails_what_is_open_and_nothing_else() -> None:
    async def test(door: Door) -> None:
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(door.generate("pause:3", 6))
            started = group.create_task(door.generate("pause:3", 6, stream=True))
            await door.until(lambda: len(door.script.tokenized) == 2)
            await door.until(lambda: all(sequence.num_tokens == 3 for sequence in door.script.running.values()))
            door.replies.lose_all("test")
        assert (whole.result().status, whole.result().error["code"]) == (503, "engine_restarting")
        assert whole.result().headers["Retry-After"] == "5"
        assert started.result().events[-1]["error"]["code"] == "engine_restarting"
        await door.until(lambda: len(door.script.aborts) == 2)
        await door.assert_unharmed()

    run(test)


def test_the_deadline_is_a_status_or_an_event() -> None:
    async def test(door: Door) -> None:
        whole = await door.generate("hold", 6)
        assert (whole.status, whole.error["type"], whole.error["code"]) == (504, "timeout_error", "deadline_exceeded")
        assert whole.headers["x-should-retry"] == "false"
        started = await door.generate("pause:3", 6, stream=True)
        assert (started.status, started.events[-1]["error"]["code"]) == (200, "deadline_exceeded")
        assert {abort.cause for abort in door.script.aborts} == {"deadline"}
        door.script.aborts.clear()

    run(test, request_timeout=0.2)


def test_an_actor_that_does_not_answer_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.http.service.ASK_DEADLINE_S", 0.01)

    async def test(door: Door) -> None:
        await door.supervisor.stop()
        for path in ("/health", "/get_server_info", "/metrics", "/flush_cache"):
            answer = await door.get(path)
            assert (answer.status, answer.error["type"]) == (503, "unavailable_error")
            assert answer.headers["Retry-After"]

    run(test)


def test_chat_turns_become_what_templates_see() -> None:
    async def test(door: Door) -> None:
        messages = [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
            {"role": "tool", "content": "42", "tool_call_id": "t"},
            {"role": "assistant", "content": "The"},
        ]
        body = {"messages": messages, "continue_final_message": True, "chat_template_kwargs": {"enable_thinking": False}}
        assert (await door.post("/v1/chat/completions", body | {"max_completion_tokens": 1, "max_tokens": 9})).status == 200
        (message,) = door.script.tokenized
        assert message.params.max_new_tokens == 1
        assert message.prompt.turns == (
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a b", "name": "me"},
            {"role": "assistant", "content": ""},
            {"role": "tool", "content": "42", "tool_call_id": "t"},
            {"role": "assistant", "content": "The"},
        )
        assert (message.prompt.add_generation_prompt, message.prompt.continue_final_message) == (False, True)
        assert message.prompt.template_arguments == {"enable_thinking": False}

    run(test)


def test_defaults_are_those_of_the_api() -> None:
    async def test(door: Door) -> None:
        user = [{"role": "user", "content": "a"}]
        for path, body, max_new_tokens in [
            ("/v1/chat/completions", {"messages": user, "stream": True}, None),
            ("/v1/completions", {"prompt": "a"}, 16),
            ("/generate", {"text": "hi"}, 128),
            ("/generate", {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": None}, "stream": True}, None),
        ]:
            sending = asyncio.create_task(door.post(path, body))
            await door.until(lambda: bool(door.script.tokenized))
            message = door.script.tokenized.pop()
            assert message.params.max_new_tokens == max_new_tokens
            assert (message.params.temperature, message.params.top_k, message.params.top_p) == (1.0, -1, 1.0)
            sending.cancel()
            await asyncio.wait([sending])

    run(test)


def test_requests_are_logged_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async def test(door: Door) -> None:
        await door.generate("x", 2, rid="label")

    with caplog.at_level(logging.INFO, logger="runtime.http"):
        run(test, log_requests=True)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("request label: 1 sequences") for line in lines)
    assert "request label ended: length, 1 prompt tokens, 2 completion tokens" in lines
