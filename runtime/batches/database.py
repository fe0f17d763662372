"""The database of files and batches: SQLite, in write-ahead mode, so that what is committed outlives the process.

    files(number, id, purpose, record)
        One row for each stored file; `record` is a `StoredFile` as JSON. `number` gives the order in which they came.
    batches(number, id, status, record)
        One row for each batch; `record` is a `Batch` as JSON, `status` its status.
    lines(batch_id, number, custom_id, start, size, is_success, result)
        One row for each line of an open batch: where it is in the input file, in bytes, and, once it has run, its line of the
        output or error file. `is_success` is null until then. They go when the batch has ended and its files are written.

Every write is one statement, which SQLite does as a whole or not at all: a task that is cancelled, or a process that is killed,
leaves none half done. Invariant: a line gets a result once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import aiosqlite
import msgspec

from runtime.batch_port import Batch, RequestCounts, Status, StoredFile

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lines (
    batch_id TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
    is_success INTEGER, result BLOB, PRIMARY KEY (batch_id, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status);
"""
PRAGMAS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;"
OPEN = "('validating', 'in_progress', 'finalizing', 'cancelling')"
ROWS_AT_ONCE = 100


class Line(msgspec.Struct, frozen=True):
    """A line of a batch: `start` and `size` are bytes in the input file."""

    number: int
    custom_id: str
    start: int
    size: int


class Result(msgspec.Struct, frozen=True):
    """A line's line in the output file, or, without `is_success`, in the error file."""

    number: int
    is_success: bool
    line: bytes


class Database:
    """Methods raise `sqlite3.Error`."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, path: Path) -> Database:
        connection = await aiosqlite.connect(path, isolation_level=None)
        try:
            await connection.executescript(PRAGMAS + SCHEMA)
        except sqlite3.Error:
            await connection.close()
            raise
        return cls(connection)

    async def close(self) -> None:
        await self._connection.close()

    # -- files ---------------------------------------------------------------------------------------------------------

    async def add_file(self, file: StoredFile) -> None:
        """A file with this id that is there already is replaced."""
        await self._write(
            "INSERT OR REPLACE INTO files (id, purpose, record) VALUES (?, ?, ?)",
            file.id,
            file.purpose,
            msgspec.json.encode(file),
        )

    async def file(self, file_id: str) -> StoredFile | None:
        row = await self._row("SELECT record FROM files WHERE id = ?", file_id)
        return None if row is None else msgspec.json.decode(row[0], type=StoredFile)

    async def files(self, purpose: str | None, after: str | None, limit: int, *, newest_first: bool) -> list[StoredFile]:
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        rows = await self._connection.execute_fetchall(
            "SELECT record FROM files WHERE (?1 IS NULL OR purpose = ?1)"
            f" AND (?2 IS NULL OR number {beyond} (SELECT number FROM files WHERE id = ?2)) ORDER BY number {order} LIMIT ?3",
            (purpose, after, limit),
        )
        return [msgspec.json.decode(row[0], type=StoredFile) for row in rows]

    async def file_ids(self) -> set[str]:
        return {row[0] for row in await self._connection.execute_fetchall("SELECT id FROM files")}

    async def delete_file(self, file_id: str) -> bool:
        """Whether it was there."""
        return await self._write("DELETE FROM files WHERE id = ?", file_id) == 1

    # -- batches -------------------------------------------------------------------------------------------------------

    async def add_batch(self, batch: Batch) -> None:
        query = "INSERT INTO batches (id, status, record) VALUES (?, ?, ?)"
        await self._write(query, batch.id, batch.status, msgspec.json.encode(batch))

    async def batch(self, batch_id: str) -> Batch | None:
        row = await self._row("SELECT record FROM batches WHERE id = ?", batch_id)
        return None if row is None else await self._counted(msgspec.json.decode(row[0], type=Batch))

    async def batches(self, after: str | None, limit: int) -> list[Batch]:
        """The newest first."""
        rows = await self._connection.execute_fetchall(
            "SELECT record FROM batches WHERE ?1 IS NULL OR number < (SELECT number FROM batches WHERE id = ?1)"
            " ORDER BY number DESC LIMIT ?2",
            (after, limit),
        )
        return [await self._counted(msgspec.json.decode(row[0], type=Batch)) for row in rows]

    async def open_batches(self) -> list[Batch]:
        """The oldest first."""
        rows = await self._connection.execute_fetchall(f"SELECT record FROM batches WHERE status IN {OPEN} ORDER BY number")
        return [msgspec.json.decode(row[0], type=Batch) for row in rows]

    async def change(self, batch: Batch, *statuses: Status) -> bool:
        """Write the batch if its status still is one of `statuses`; whether it was."""
        marks = ", ".join("?" * len(statuses))
        query = f"UPDATE batches SET status = ?, record = ? WHERE id = ? AND status IN ({marks})"
        return await self._write(query, batch.status, msgspec.json.encode(batch), batch.id, *statuses) == 1

    # -- lines ---------------------------------------------------------------------------------------------------------

    async def add_lines(self, batch_id: str, lines: Sequence[Line]) -> None:
        """All lines of a batch, none of which has run."""
        await self._write(
            "INSERT OR REPLACE INTO lines (batch_id, number, custom_id, start, size)"
            " SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?2)",
            batch_id,
            msgspec.json.encode([(line.number, line.custom_id, line.start, line.size) for line in lines]).decode(),
        )

    async def forget_lines(self) -> None:
        """Those of batches that have ended."""
        await self._write(f"DELETE FROM lines WHERE batch_id NOT IN (SELECT id FROM batches WHERE status IN {OPEN})")

    async def counts(self, batch_id: str) -> RequestCounts:
        row = await self._row(
            "SELECT count(*), coalesce(sum(is_success), 0), count(is_success) FROM lines WHERE batch_id = ?", batch_id
        )
        assert row is not None, "an aggregate has a row"
        return RequestCounts(total=row[0], completed=row[1], failed=row[2] - row[1])

    async def open_lines(self, batch_id: str, after: int) -> list[Line]:
        """The next lines without a result behind the line number `after`; none at the end."""
        rows = await self._connection.execute_fetchall(
            "SELECT number, custom_id, start, size FROM lines WHERE batch_id = ? AND number > ? AND is_success IS NULL"
            " ORDER BY number LIMIT ?",
            (batch_id, after, ROWS_AT_ONCE),
        )
        return [Line(*row) for row in rows]

    async def add_result(self, batch_id: str, result: Result) -> None:
        """A second result for a line is ignored."""
        await self._write(
            "UPDATE lines SET is_success = ?, result = ? WHERE batch_id = ? AND number = ? AND is_success IS NULL",
            result.is_success,
            result.line,
            batch_id,
            result.number,
        )

    async def results(self, batch_id: str, after: int, *, is_success: bool) -> list[Result]:
        """The next results behind the line number `after`, of one kind; none at the end."""
        rows = await self._connection.execute_fetchall(
            "SELECT number, result FROM lines WHERE batch_id = ? AND number > ? AND is_success = ? ORDER BY number LIMIT ?",
            (batch_id, after, is_success, ROWS_AT_ONCE),
        )
        return [Result(number, is_success, line) for number, line in rows]

    # -- how -----------------------------------------------------------------------------------------------------------

    async def _row(self, query: str, *values: object) -> sqlite3.Row | None:
        rows = list(await self._connection.execute_fetchall(query, values))
        return rows[0] if rows else None

    async def _write(self, statement: str, *values: object) -> int:
        """How many rows it changed."""
        async with self._connection.execute(statement, values) as cursor:
            return cursor.rowcount

    async def _counted(self, batch: Batch) -> Batch:
        """With the counts of this moment, which the record has only at the end."""
        if not batch.is_open:
            return batch
        return msgspec.structs.replace(batch, request_counts=await self.counts(batch.id))
