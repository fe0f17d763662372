"""Batches from upload to output: what is written, what is refused, what ends them, and what a restart leaves."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.batch_port import Batch, NewBatch, Status
from runtime.batches import batch_run
from runtime.batches.batches import Batches
from runtime.batches.database import Database
from runtime.errors import BodyTooLarge, Conflict, InvalidRequest, NotFound, Unavailable
from tests.batches.conftest import Door, begin, ended, line, open_batches, put, rows, written

Test = Callable[[Batches, Door], Awaitable[None]]


def run(folder: Path, test: Test, **config: int) -> None:
    async def main() -> None:
        door = Door()
        door.hold.set()
        async with open_batches(folder / "storage", door, itertools.count(1), **config) as batches:
            await test(batches, door)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def test_every_line_has_its_line(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        lines = [line(f"id-{index}") for index in range(250)]
        lines[7]["body"]["prompt"] = "bad"
        lines[8]["body"]["prompt"] = "bug"
        batch = await ended(batches, (await begin(batches, written(lines))).id)
        assert batch.status == "completed"
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (250, 248, 2)
        output, errors = await rows(batches, batch.output_file_id), await rows(batches, batch.error_file_id)
        assert [row["custom_id"] for row in output] == [f"id-{index}" for index in range(250) if index not in (7, 8)]
        assert output[0]["response"] == {"status_code": 200, "request_id": "r-id-0", "body": {"text": "ID-0"}}
        assert output[0]["error"] is None
        assert [(row["custom_id"], row["response"]["status_code"]) for row in errors] == [("id-7", 400), ("id-8", 500)]
        assert errors[0]["response"]["body"] == {"error": {"message": "bad"}}
        assert len({row["id"] for row in output + errors}) == 250
        assert batch.in_progress_at is not None
        assert batch.completed_at is not None

    run(tmp_path, test)


def test_a_line_that_was_lost_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "FIRST_DELAY_S", 0.001)

    async def test(batches: Batches, door: Door) -> None:
        door.num_failures = {"a": 2, "b": 10**6}
        batch = await ended(batches, (await begin(batches, written([line("a"), line("b")]))).id)
        assert [row["custom_id"] for row in await rows(batches, batch.output_file_id)] == ["a"]
        assert [row["response"]["status_code"] for row in await rows(batches, batch.error_file_id)] == [503]
        assert (door.ran.count("a"), door.ran.count("b")) == (3, batch_run.MAX_ATTEMPTS)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("content", "code", "number", "param"),
    [
        (b"", "empty_file", None, None),
        (b"\n\n", "empty_file", None, None),
        (b"{", "invalid_json_line", 1, None),
        (b"\xff", "invalid_json_line", 1, None),
        (b'{"body":' + b"[" * 5000, "invalid_json_line", 1, None),
        (written([line("a"), line("a")]), "duplicate_custom_id", 2, "custom_id"),
        (written([line("")]), "invalid_custom_id", 1, "custom_id"),
        (written([line("a", url="/v1/chat/completions")]), "invalid_url", 1, "url"),
        (written([line("a", method="GET")]), "invalid_method", 1, "method"),
        (written([line("a", body={"prompt": "x"})]), "missing_required_parameter", 1, "body.model"),
        (written([line("a", body={"model": "gpt"})]), "model_not_found", 1, "body.model"),
        (written([line("a", body=[])]), "invalid_body", 1, "body.model"),
        (b'{"method": "POST"}', "missing_required_parameter", 1, "custom_id"),
        (written([line("a") | {"custom_id": 3}]), "invalid_request", 1, "custom_id"),
        (written([line("a", "x" * 20_000)]), "line_too_large", 1, None),
        (written([line(str(index)) for index in range(6)]), "too_many_tasks", None, None),
    ],
)
def test_an_input_file_that_is_not_a_batch(
    tmp_path: Path, content: bytes, code: str, number: int | None, param: str | None
) -> None:
    async def test(batches: Batches, door: Door) -> None:
        batch = await ended(batches, (await begin(batches, content)).id)
        assert batch.status == "failed"
        assert batch.errors is not None
        error = batch.errors.data[0]
        assert (error.code, error.line, error.param) == (code, number, param)
        assert door.ran == []
        assert (batch.output_file_id, batch.error_file_id) == (None, None)

    run(tmp_path, test, max_batch_lines=5)


def test_cancel_ends_the_open_lines_and_keeps_the_results(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        batch = await begin(batches, written([line("first")] + [line(f"id-{index}") for index in range(40)]))
        await until(lambda: len(door.ran) > 4)
        door.hold.clear()
        await until(lambda: len(door.running) == 4)
        cancelling = await batches.cancel(batch.id)
        assert cancelling.status in ("cancelling", "cancelled")
        last = await ended(batches, batch.id)
        assert last.status == "cancelled"
        assert door.running == set()
        assert door.num_cancelled == 4
        output, errors = await rows(batches, last.output_file_id), await rows(batches, last.error_file_id)
        assert output
        assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
        assert sorted(row["custom_id"] for row in output + errors) == sorted(["first", *(f"id-{index}" for index in range(40))])
        with pytest.raises(Conflict):
            await batches.cancel(batch.id)

    run(tmp_path, test)


def test_counts_are_there_while_it_runs(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        door.hold.clear()
        batch = await begin(batches, written([line("a"), line("bad", "bad"), line("b")]))
        await until(lambda: len(door.running) == 3)
        assert (await batches.batch(batch.id)).request_counts.total == 3
        assert (await batches.batch(batch.id)).status == "in_progress"
        door.hold.set()
        counts = (await ended(batches, batch.id)).request_counts
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)

    run(tmp_path, test)


def test_what_the_window_leaves_expires(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        door.hold.clear()
        batch = await ended(batches, (await begin(batches, written([line("a"), line("b")]), window_s=0)).id)
        assert (batch.status, batch.output_file_id) == ("expired", None)
        assert batch.expired_at is not None
        assert [row["error"]["code"] for row in await rows(batches, batch.error_file_id)] == ["batch_expired"] * 2

    run(tmp_path, test)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """Stop at many places: no line is lost, and none is in the output twice."""

    async def main() -> None:
        names = itertools.count(1)
        expected = [f"id-{index}" for index in range(300)]
        door = Door()
        async with open_batches(tmp_path / "storage", door, names) as batches:
            batch_id = (await begin(batches, written([line(name) for name in expected]))).id
        for _ in range(6):
            door.hold = asyncio.Event()
            async with open_batches(tmp_path / "storage", door, names) as batches:
                await until(lambda: len(door.running) == 4)
                num_before = len(door.ran)
                door.hold.set()
                await until(lambda num_before=num_before: len(door.ran) > num_before + 5)
        door.hold.set()
        async with open_batches(tmp_path / "storage", door, names) as batches:
            batch = await ended(batches, batch_id)
            assert batch.status == "completed"
            assert [row["custom_id"] for row in await rows(batches, batch.output_file_id)] == expected
            assert {row["response"]["status_code"] for row in await rows(batches, batch.output_file_id)} == {200}

    asyncio.run(main())


def test_an_end_that_failed_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written, the last state is not: after a restart there is one output file, and it is the same."""
    change = Database.change

    async def fail_at_the_end(database: Database, batch: Batch, *statuses: Status) -> bool:
        if batch.status == "completed":
            raise sqlite3.OperationalError("database or disk is full")
        return await change(database, batch, *statuses)

    async def main() -> None:
        names, door = itertools.count(1), Door()
        door.hold.set()
        lines = written([line("a"), line("bad", "bad"), line("b")])
        files = tmp_path / "storage" / "files"
        with monkeypatch.context() as patch:
            patch.setattr(Database, "change", fail_at_the_end)
            async with open_batches(tmp_path / "storage", door, names) as batches:
                batch_id = (await begin(batches, lines)).id
                await until(lambda: len(list(files.iterdir())) == 3)
                assert (await batches.batch(batch_id)).status == "finalizing"
                with pytest.raises(Conflict):
                    await batches.cancel(batch_id)
        async with open_batches(tmp_path / "storage", door, names) as batches:
            batch = await ended(batches, batch_id)
            assert batch.status == "completed"
            assert [row["custom_id"] for row in await rows(batches, batch.output_file_id)] == ["a", "b"]
            assert [row["custom_id"] for row in await rows(batches, batch.error_file_id)] == ["bad"]
            assert len(await batches.files("batch_output", None, 10, newest_first=True)) == 2
        assert len(list(files.iterdir())) == 3
        assert len(door.ran) == 3

    asyncio.run(main())


def test_a_cancel_outlives_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        names, door = itertools.count(1), Door()
        async with open_batches(tmp_path / "storage", door, names) as batches:
            batch_id = (await begin(batches, written([line("a"), line("b")]))).id
            await until(lambda: len(door.running) == 2)
            await batches.stop()
        connection = sqlite3.connect(tmp_path / "storage" / "batches.sqlite")
        (record,) = connection.execute("SELECT record FROM batches").fetchone()
        record = record.replace(b'"in_progress"', b'"cancelling"')
        with connection:
            connection.execute("UPDATE batches SET status = 'cancelling', record = ?", (record,))
        connection.close()
        async with open_batches(tmp_path / "storage", door, names) as batches:
            batch = await ended(batches, batch_id)
            assert batch.status == "cancelled"
            assert [row["error"]["code"] for row in await rows(batches, batch.error_file_id)] == ["batch_cancelled"] * 2
        assert len(door.ran) == 2

    asyncio.run(main())


def test_files(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        ids = [await put(batches, b"x" * size, purpose) for size, purpose in ((1, "batch"), (2, "vision"), (3, "batch"))]
        assert [file.id for file in await batches.files(None, None, 10, newest_first=False)] == ids
        assert [file.bytes for file in await batches.files("batch", None, 10, newest_first=True)] == [3, 1]
        assert [file.id for file in await batches.files(None, ids[0], 1, newest_first=False)] == [ids[1]]
        await batches.delete(ids[0])
        assert sorted(path.name for path in (tmp_path / "storage" / "files").iterdir()) == sorted(ids[1:])
        for call in (batches.file, batches.content, batches.delete):
            with pytest.raises(NotFound):
                await call(ids[0])
        for name in ("../lock", "file-", "batches.sqlite", "", "file-" + "0" * 32 + "/../x"):
            with pytest.raises(NotFound):
                await batches.content(name)

    run(tmp_path, test)


def test_an_upload_is_whole_or_not_there(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        upload = await batches.upload()
        await upload.write(b"12345")
        with pytest.raises(BodyTooLarge):
            await upload.write(b"6789")
        await upload.discard()
        assert list((tmp_path / "storage" / "files").iterdir()) == []
        assert await batches.files(None, None, 10, newest_first=True) == []

    run(tmp_path, test, max_file_bytes=8)


def test_what_a_killed_server_left_is_swept(tmp_path: Path) -> None:
    async def main() -> None:
        names = itertools.count(1)
        async with open_batches(tmp_path / "storage", Door(), names) as batches:
            kept = await put(batches, b"kept")
        (tmp_path / "storage" / "files" / ("file-" + "a" * 32 + ".part")).write_bytes(b"half")
        (tmp_path / "storage" / "files" / ("file-" + "b" * 32)).write_bytes(b"orphan")
        async with open_batches(tmp_path / "storage", Door(), names):
            assert [path.name for path in (tmp_path / "storage" / "files").iterdir()] == [kept]

    asyncio.run(main())


def test_batches_need_a_file_for_them(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        image = await put(batches, b"x", "vision")
        new = NewBatch(endpoint="/v1/completions", input_file_id=image, completion_window="1h", window_s=3600)
        with pytest.raises(InvalidRequest):
            await batches.create(new)
        with pytest.raises(NotFound):
            await batches.create(NewBatch(endpoint="/v1/completions", input_file_id="x", completion_window="1h", window_s=1))
        with pytest.raises(InvalidRequest):
            await batches.create(NewBatch(endpoint="/v1/embeddings", input_file_id=image, completion_window="1h", window_s=1))
        with pytest.raises(NotFound):
            await batches.batch("batch_" + "0" * 32)

    run(tmp_path, test)


def test_a_file_in_use_stays(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        door.hold.clear()
        batch = await begin(batches, written([line("a")]))
        with pytest.raises(Conflict):
            await batches.delete(batch.input_file_id)
        door.hold.set()
        await ended(batches, batch.id)
        await batches.delete(batch.input_file_id)

    run(tmp_path, test)


def test_two_servers_do_not_share_a_storage(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        await put(batches, b"x")
        async with open_batches(tmp_path / "storage", Door(), itertools.count(1)) as second:
            with pytest.raises(Unavailable, match="another server"):
                await second.upload()

    run(tmp_path, test)


def test_a_disk_that_takes_nothing_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "storage").write_bytes(b"a file where the folder should be")

    async def test(batches: Batches, door: Door) -> None:
        with pytest.raises(Unavailable) as caught:
            await batches.upload()
        assert caught.value.failure.code == "storage_failed"

    run(tmp_path, test)


def test_pages_of_batches(tmp_path: Path) -> None:
    async def test(batches: Batches, door: Door) -> None:
        ids = [(await begin(batches, written([line("a")]))).id for _ in range(3)]
        assert [batch.id for batch in await batches.batches(None, 2)] == [ids[2], ids[1]]
        assert [batch.id for batch in await batches.batches(ids[1], 2)] == [ids[0]]
        for batch_id in ids:
            await ended(batches, batch_id)

    run(tmp_path, test)
