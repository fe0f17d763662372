"""The database alone: what is written once, conditional changes, and what is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from runtime.batch_port import Batch, RequestCounts
from runtime.batches.database import ROWS_AT_ONCE, Database, Line, Result

BATCH = Batch(
    id="batch_1",
    endpoint="/v1/completions",
    input_file_id="file-1",
    completion_window="1h",
    status="in_progress",
    created_at=1,
    expires_at=2,
)


def run(folder: Path, test: Callable[[Database], Awaitable[None]]) -> None:
    async def main() -> None:
        database = await Database.open(folder / "db")
        await database.add_batch(BATCH)
        try:
            await test(database)
        finally:
            await database.close()

    asyncio.run(main())


def test_a_line_gets_a_result_once(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        await database.add_lines(BATCH.id, [Line(1, 'a"b\n', 0, 5), Line(3, "c", 5, 7)])
        assert await database.open_lines(BATCH.id, 0) == [Line(1, 'a"b\n', 0, 5), Line(3, "c", 5, 7)]
        await database.add_result(BATCH.id, Result(1, True, b"first\n"))
        await database.add_result(BATCH.id, Result(1, False, b"second\n"))
        assert await database.open_lines(BATCH.id, 0) == [Line(3, "c", 5, 7)]
        assert await database.results(BATCH.id, 0, is_success=True) == [Result(1, True, b"first\n")]
        assert await database.results(BATCH.id, 0, is_success=False) == []
        assert await database.counts(BATCH.id) == RequestCounts(2, 1, 0)

    run(tmp_path, test)


def test_lines_come_in_portions(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        lines = [Line(number, str(number), 0, 1) for number in range(1, ROWS_AT_ONCE + 3)]
        await database.add_lines(BATCH.id, lines)
        first = await database.open_lines(BATCH.id, 0)
        assert first + await database.open_lines(BATCH.id, first[-1].number) == lines

    run(tmp_path, test)


def test_a_change_needs_the_state_it_expects(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        cancelling = msgspec.structs.replace(BATCH, status="cancelling")
        finalizing = msgspec.structs.replace(BATCH, status="finalizing")
        assert await database.change(cancelling, "validating", "in_progress")
        assert not await database.change(finalizing, "in_progress")
        assert await database.batch(BATCH.id) == cancelling

    run(tmp_path, test)


def test_only_ended_batches_are_forgotten(tmp_path: Path) -> None:
    async def test(database: Database) -> None:
        await database.add_lines(BATCH.id, [Line(1, "a", 0, 1)])
        await database.forget_lines()
        assert (await database.counts(BATCH.id)).total == 1
        assert [batch.id for batch in await database.open_batches()] == [BATCH.id]
        await database.change(msgspec.structs.replace(BATCH, status="completed"), "in_progress")
        await database.forget_lines()
        assert (await database.counts(BATCH.id)).total == 0
        assert await database.open_batches() == []

    run(tmp_path, test)
