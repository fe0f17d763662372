"""Files and batches through the official `openai` client, whose lines go through the real door."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from runtime.batch_port import Load
from runtime.batches.batches import BatchEnvironment, Batches
from runtime.clock import SystemClock
from runtime.config import BatchConfig
from runtime.http.batch_line import ENDPOINTS, run_line
from runtime.http.batches import BATCHES
from runtime.http.service import SERVICE
from tests.http.door import MODEL, Door, open_door
from tests.http.scripted import expected

ENDS = ("completed", "failed", "cancelled", "expired")
Test = Callable[[Door, openai.AsyncOpenAI], Awaitable[None]]


@asynccontextmanager
async def open_storage(door: Door, folder: Path, **config: Any) -> AsyncIterator[None]:
    """Give the door's application batches, as the composition root does."""
    app = door.runner.app
    service = app[SERVICE]
    names = itertools.count(1)
    environment = BatchEnvironment(
        clock=SystemClock(),
        new_hex=lambda num_bytes: f"{next(names):0{2 * num_bytes}x}",
        endpoints=ENDPOINTS,
        is_served=service.info.is_served,
        load=lambda: Load(num_slots=8, num_open=door.replies.num_open),
        run_line=partial(run_line, service),
        max_line_bytes=10_000,
    )
    batches = Batches(BatchConfig(file_storage_path=str(folder / "storage"), **config), environment)
    app._state[BATCHES] = batches  # the door is open already
    try:
        yield
    finally:
        await batches.stop()


def run(folder: Path, test: Test, **config: Any) -> None:
    async def main() -> None:
        async with open_door() as door, open_storage(door, folder, **config):
            async with openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="none", max_retries=0) as client:
                await test(door, client)
            await door.assert_unharmed()

    asyncio.run(main())


def chat(custom_id: str, content: str, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 4, "seed": 1, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


async def begin(client: openai.AsyncOpenAI, lines: list[dict[str, Any]], **fields: Any) -> Any:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
    options: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    return await client.batches.create(input_file_id=file.id, **options)


async def ended(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    async with asyncio.timeout(20):
        while (batch := await client.batches.retrieve(batch_id)).status not in ENDS:  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.005)
    return batch


async def rows(client: openai.AsyncOpenAI, file_id: str) -> list[Any]:
    return [json.loads(row) for row in (await client.files.content(file_id)).text.splitlines()]


def test_a_batch_answers_as_its_endpoint_does(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        lines = [chat(f"id-{index}", f"hi {index}") for index in range(20)]
        lines += [chat("hot", "hi", temperature=9e9), chat("stream", "hi", stream=True), chat("fail", "fail")]
        batch = await begin(client, lines, metadata={"night": "1"})
        assert (batch.status, batch.metadata) == ("validating", {"night": "1"})
        batch = await ended(client, batch.id)
        assert batch.status == "completed"
        assert batch.request_counts.to_dict() == {"total": 23, "completed": 20, "failed": 3}
        output = await rows(client, batch.output_file_id)
        assert [row["custom_id"] for row in output] == [f"id-{index}" for index in range(20)]
        body = output[3]["response"]["body"]
        direct = await client.chat.completions.create(**lines[3]["body"])
        assert body["choices"] == direct.to_dict()["choices"]
        assert body["choices"][0]["message"]["content"] == expected("hi 3", 4, 1)
        assert body["usage"]["completion_tokens"] == 4
        errors = await rows(client, batch.error_file_id)
        assert {row["custom_id"]: row["response"]["body"]["error"]["param"] for row in errors} == {
            "hot": "temperature",
            "stream": "stream",
            "fail": "prompt",
        }
        assert {row["response"]["status_code"] for row in errors} == {400}
        assert (await client.files.retrieve(batch.output_file_id)).purpose == "batch_output"

    run(tmp_path, test)


def test_responses_are_batched_too(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        kept = await client.responses.create(model=MODEL, input="hi", max_output_tokens=4)
        bodies: dict[str, dict[str, Any]] = {
            "one": {"input": "hi 1", "max_output_tokens": 4},
            "on": {"input": "and then?", "max_output_tokens": 4, "previous_response_id": kept.id},
            "stream": {"input": "hi", "stream": True},
            "empty": {"input": []},
        }
        lines = [
            {"custom_id": name, "method": "POST", "url": "/v1/responses", "body": {"model": MODEL, "seed": 1, **body}}
            for name, body in bodies.items()
        ]
        batch = await ended(client, (await begin(client, lines, endpoint="/v1/responses")).id)
        assert batch.request_counts.to_dict() == {"total": 4, "completed": 2, "failed": 2}
        output = {row["custom_id"]: row["response"]["body"] for row in await rows(client, batch.output_file_id)}
        assert output["one"]["output"][0]["content"][0]["text"] == expected("hi 1", 4, 1)
        assert (output["one"]["status"], output["one"]["store"]) == ("incomplete", False)
        assert {len(message.prompt.turns) for message in door.script.tokenized[1:]} == {1, 3}
        assert {message.priority for message in door.script.tokenized[1:]} == {-1}
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(output["one"]["id"])
        errors = {row["custom_id"]: row["response"]["body"]["error"] for row in await rows(client, batch.error_file_id)}
        assert {name: error["param"] for name, error in errors.items()} == {"stream": "stream", "empty": "input"}

    run(tmp_path, test)


def test_lines_have_low_priority_and_leave_with_the_batch(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        batch = await begin(client, [chat("a", "hold"), chat("b", "hold", priority=5)])
        await door.until(lambda: len(door.script.running) == 2)
        assert sorted(message.priority for message in door.script.tokenized) == [-1, 5]
        assert (await client.batches.retrieve(batch.id)).status == "in_progress"
        async with asyncio.timeout(1):
            await client.batches.cancel(batch.id)
            assert (await ended(client, batch.id)).status == "cancelled"
        await door.until(lambda: len(door.script.aborts) == 2)
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)

    run(tmp_path, test)


def test_files(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        content = bytes(range(256)) * 5000
        names = ["../../etc/passwd", "a\u00fc\U0001f3ad.jsonl", "x" * 400]
        files = [await client.files.create(file=(name, io.BytesIO(content)), purpose="batch") for name in names]
        assert [file.filename for file in files] == [*names[:2], "x" * 255]
        assert [file.bytes for file in files] == [len(content)] * 3
        assert sorted(path.name for path in (tmp_path / "storage" / "files").iterdir()) == sorted(file.id for file in files)
        assert (await client.files.content(files[0].id)).content == content
        listed = [file.id async for file in client.files.list(limit=2, order="asc")]
        assert listed == [file.id for file in files]
        assert (await client.files.delete(files[0].id)).deleted
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(files[0].id)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve("..%2flock")

    run(tmp_path, test)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        for size in (1001, 10**7):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.files.create(file=("a", b"x" * size), purpose="batch")
            assert caught.value.status_code == 413
        assert (await client.files.create(file=("a", b"x" * 1000), purpose="batch")).bytes == 1000
        assert len(list((tmp_path / "storage" / "files").iterdir())) == 1

    run(tmp_path, test, max_file_bytes=1000)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nno\r\n--b--\r\n',
            400,
        ),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nno\r\n--b--\r\n', 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf', 400),
        ("multipart/form-data; boundary=b", b"\r\n".join([b"--b", b"", b"x"] * 20) + b"\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=" + "b" * 200, b"x", 400),
    ],
)
def test_forms_that_are_none(tmp_path: Path, content_type: str, body: bytes, status: int) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        answer = await door.post("/v1/files", body, headers={"Content-Type": content_type})
        assert answer.status == status
        assert answer.error["type"] == "invalid_request_error"
        files = tmp_path / "storage" / "files"
        assert not files.exists() or list(files.iterdir()) == []

    run(tmp_path, test)


def test_a_client_that_leaves_in_an_upload_leaves_nothing(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        files = tmp_path / "storage" / "files"
        began = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 10**6
            began.set()
            await asyncio.Event().wait()

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        upload = asyncio.create_task(door.session.post(door.url + "/v1/files", data=parts(), headers=headers))
        await began.wait()
        await door.until(lambda: files.exists() and len(list(files.iterdir())) == 1)
        upload.cancel()
        with pytest.raises((asyncio.CancelledError, aiohttp.ClientError)):
            await upload
        await door.until(lambda: list(files.iterdir()) == [])

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "999999d"}, "completion_window"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(index): "v" for index in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
    ],
)
def test_what_a_batch_can_not_be(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await begin(client, [chat("a", "hi")], **fields)
        assert caught.value.param == param
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(input_file_id="file-x", endpoint="/v1/completions", completion_window="24h")
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_x")

    run(tmp_path, test)


def test_a_bad_input_file_fails_the_batch(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        batch = await begin(client, [chat("a", "hi"), chat("a", "hi")])
        batch = await ended(client, batch.id)
        assert batch.status == "failed"
        assert [(error.code, error.line, error.param) for error in batch.errors.data] == [
            ("duplicate_custom_id", 2, "custom_id")
        ]

    run(tmp_path, test)


def test_pages_of_batches(tmp_path: Path) -> None:
    async def test(door: Door, client: openai.AsyncOpenAI) -> None:
        ids = [(await begin(client, [chat("a", "hi")])).id for _ in range(5)]
        assert [batch.id async for batch in client.batches.list(limit=2)] == ids[::-1]
        for query in ("limit=0", "limit=x", "limit=-1", "limit=101"):
            assert (await door.get(f"/v1/batches?{query}")).error["param"] == "limit"
        for batch_id in ids:
            await ended(client, batch_id)

    run(tmp_path, test)


def test_a_server_without_storage_says_so() -> None:
    async def main() -> None:
        async with open_door() as door:
            answer = await door.get("/v1/files")
            assert (answer.status, answer.error["code"]) == (503, "storage_failed")

    asyncio.run(main())
