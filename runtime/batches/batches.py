"""Files and batches: everything the HTTP door asks of them, and the tasks that run the open batches.

Owns the storage folder (`batches.sqlite`, `files/`, and a lock, since two servers would run the same lines) and a task for each
open batch. The folder is made at the first upload; one that is there when the server starts is opened, and its batches go on.
Invariant: after `stop` no task is left, and nothing was written that is not whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from runtime.batch_port import BATCH_PURPOSE, Batch, Load, NewBatch, RunLine, StoredFile
from runtime.batches.batch_run import BatchRun, Means
from runtime.batches.database import Database
from runtime.batches.file_store import FileStore, PartialFile
from runtime.batches.gate import Gate
from runtime.batches.input_file import InputRules
from runtime.clock import Clock
from runtime.config import BatchConfig
from runtime.errors import BodyTooLarge, Conflict, InvalidRequest, NotFound, Unavailable

log = logging.getLogger(__name__)

RETRY_S = 10.0
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")


class BatchEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """What batches need to know of the server. `new_hex` makes names that no other run of the server makes."""

    clock: Clock
    new_hex: Callable[[int], str]
    endpoints: tuple[str, ...]
    is_served: Callable[[str], bool]
    load: Callable[[], Load]
    run_line: RunLine
    max_line_bytes: int


class Batches:
    """A `BatchPort`. `start` it and `stop` it."""

    def __init__(self, config: BatchConfig, environment: BatchEnvironment) -> None:
        self._config = config
        self._environment = environment
        self._folder = Path(config.file_storage_path)
        self._opening = asyncio.Lock()
        self._changing = asyncio.Lock()
        """Held while a batch is added or a file deleted, of which one must see the other."""
        self._lock_file: TextIO | None = None
        self._means: Means | None = None
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}

    @property
    def max_file_bytes(self) -> int:
        return self._config.max_file_bytes

    async def start(self) -> None:
        """Go on with what a server before left open. A storage that can not be used is a warning: the server can."""
        if not (self._folder / "batches.sqlite").exists():
            return
        try:
            await self._storage()
        except Unavailable as error:
            log.warning("%s", error)

    async def stop(self) -> None:
        """End the tasks; what is not done is done after the next start."""
        for _, task in self._runs.values():
            task.cancel()
        if self._runs:
            await asyncio.wait([task for _, task in self._runs.values()])
        if self._means is not None:
            await self._means.database.close()
            self._means = None
        if self._lock_file is not None:
            self._lock_file.close()

    # -- files ---------------------------------------------------------------------------------------------------------

    async def upload(self) -> FileUpload:
        means = await self._storage()
        file_id = f"file-{self._environment.new_hex(16)}"
        return FileUpload(file_id, await means.store.begin(file_id), means, self.max_file_bytes)

    async def file(self, file_id: str) -> StoredFile:
        means = await self._storage()
        with _storage_errors():
            found = await means.database.file(file_id) if FILE_ID.fullmatch(file_id) else None
        if found is None:
            raise NotFound("there is no such file", param="file_id")
        return found

    async def files(self, purpose: str | None, after: str | None, limit: int, *, newest_first: bool) -> list[StoredFile]:
        if after is not None:
            await self.file(after)
        means = await self._storage()
        with _storage_errors():
            return await means.database.files(purpose, after, limit, newest_first=newest_first)

    async def content(self, file_id: str) -> Path:
        means = await self._storage()
        return means.store.path((await self.file(file_id)).id)

    async def delete(self, file_id: str) -> None:
        means = await self._storage()
        async with self._changing:
            await self.file(file_id)
            with _storage_errors():
                if any(batch.input_file_id == file_id for batch in await means.database.open_batches()):
                    raise Conflict("a batch that has not ended reads this file", param="file_id")
                await means.database.delete_file(file_id)
            await means.store.remove(file_id)

    # -- batches -------------------------------------------------------------------------------------------------------

    async def create(self, batch: NewBatch) -> Batch:
        means = await self._storage()
        if batch.endpoint not in self._environment.endpoints:
            raise InvalidRequest(f"the endpoint must be one of {', '.join(self._environment.endpoints)}", param="endpoint")
        now = means.now()
        made = Batch(
            id=f"batch_{self._environment.new_hex(16)}",
            endpoint=batch.endpoint,
            input_file_id=batch.input_file_id,
            completion_window=batch.completion_window,
            status="validating",
            created_at=now,
            expires_at=now + batch.window_s,
            metadata=batch.metadata,
        )
        async with self._changing:
            await self._check_input(batch.input_file_id)
            with _storage_errors():
                await means.database.add_batch(made)
        self._begin(made, means)
        return made

    async def batch(self, batch_id: str) -> Batch:
        means = await self._storage()
        with _storage_errors():
            found = await means.database.batch(batch_id) if BATCH_ID.fullmatch(batch_id) else None
        if found is None:
            raise NotFound("there is no such batch", param="batch_id")
        return found

    async def batches(self, after: str | None, limit: int) -> list[Batch]:
        if after is not None:
            await self.batch(after)
        means = await self._storage()
        with _storage_errors():
            return await means.database.batches(after, limit)

    async def cancel(self, batch_id: str) -> Batch:
        means = await self._storage()
        found = await self.batch(batch_id)
        if found.status != "cancelling":
            cancelling = msgspec.structs.replace(found, status="cancelling", cancelling_at=means.now())
            with _storage_errors():
                is_changed = await means.database.change(cancelling, "validating", "in_progress")
            if not is_changed:
                raise Conflict("the batch has ended, or is about to", param="batch_id")
        if batch_id in self._runs:
            self._runs[batch_id][0].cancel()
        return await self.batch(batch_id)

    # -- the storage and the runs --------------------------------------------------------------------------------------

    async def _check_input(self, file_id: str) -> None:
        try:
            file = await self.file(file_id)
        except NotFound:
            raise NotFound("there is no such file", param="input_file_id") from None
        if file.purpose != BATCH_PURPOSE:
            raise InvalidRequest(f"the file's purpose must be {BATCH_PURPOSE!r}", param="input_file_id")

    async def _storage(self) -> Means:
        """Opened at the first use. Raises `Unavailable`."""
        async with self._opening:
            if self._means is None:
                with _storage_errors():
                    self._means = await self._open()
        return self._means

    async def _open(self) -> Means:
        files = self._folder / "files"
        await asyncio.to_thread(files.mkdir, parents=True, exist_ok=True)
        self._take_lock()
        database = await Database.open(self._folder / "batches.sqlite")
        environment = self._environment
        gate = Gate(environment.load, self._config.max_open_batch_lines)
        means = Means(database, FileStore(files), gate, environment.clock, environment.run_line)
        await means.store.keep_only(await database.file_ids())
        await database.forget_lines()
        for batch in await database.open_batches():
            log.info("batch %s goes on: %s", batch.id, batch.status)
            self._begin(batch, means)
        return means

    def _take_lock(self) -> None:
        if self._lock_file is None:
            self._lock_file = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another server uses the file storage {self._folder}; give each its own --file-storage-path"
            raise Unavailable(message, code="storage_failed") from None

    def _begin(self, batch: Batch, means: Means) -> None:
        rules = InputRules(
            batch.endpoint, self._environment.is_served, self._config.max_batch_lines, self._environment.max_line_bytes
        )
        run = BatchRun(batch, rules, means)
        task = asyncio.create_task(self._keep_running(run, batch.id))
        self._runs[batch.id] = (run, task)
        task.add_done_callback(lambda ended: self._end(batch.id, ended))

    async def _keep_running(self, run: BatchRun, batch_id: str) -> None:
        """A full disk may have room again later."""
        while True:
            try:
                return await run.run()
            except (sqlite3.Error, OSError, Unavailable) as error:
                log.error("batch %s waits for the storage: %s", batch_id, error)
            await asyncio.sleep(RETRY_S)

    def _end(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._runs[batch_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch %s stopped: %r", batch_id, error, exc_info=error)


class FileUpload:
    """See `Upload`."""

    def __init__(self, file_id: str, partial: PartialFile, means: Means, max_bytes: int) -> None:
        self._file_id = file_id
        self._partial = partial
        self._means = means
        self._max_bytes = max_bytes

    async def write(self, chunk: bytes) -> None:
        if self._partial.num_bytes + len(chunk) > self._max_bytes:
            raise BodyTooLarge(f"the file is larger than {self._max_bytes} bytes", param="file")
        await self._partial.write(chunk)

    async def finish(self, filename: str, purpose: str) -> StoredFile:
        await self._partial.finish()
        file = StoredFile(
            id=self._file_id,
            bytes=self._partial.num_bytes,
            created_at=self._means.now(),
            filename=filename,
            purpose=purpose,
        )
        with _storage_errors():
            await self._means.database.add_file(file)
        return file

    async def discard(self) -> None:
        await self._partial.discard()


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        log.error("the file storage failed: %s", error)
        raise Unavailable("the file storage can not be used now", code="storage_failed", retry_after=60) from error
