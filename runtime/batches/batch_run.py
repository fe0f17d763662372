"""The run of one batch, from validation to its output files: a task that can be killed at any place and begun again.

What is done is in the database before it counts: a run begins with the state that it finds there. Invariant: each line has one
line in the output file or in the error file of an ended batch that passed validation.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from runtime.batch_port import OUTPUT_PURPOSE, Batch, LineErrors, LineReply, RunLine, Status, StoredFile
from runtime.batches.database import Database, Line, Result
from runtime.batches.file_store import FileStore, PartialFile
from runtime.batches.gate import Gate
from runtime.batches.input_file import InputRules, read_body, read_lines
from runtime.clock import Clock

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0

FAILED = b'{"error":{"message":"the server failed on this request","type":"server_error","param":null,"code":null}}'

NOT_RUN = {
    "cancelled": ("batch_cancelled", "This request was not run because the batch was cancelled."),
    "expired": ("batch_expired", "This request was not run before the completion window expired."),
}


@dataclass(frozen=True)
class Means:
    """What every run works with."""

    database: Database
    store: FileStore
    gate: Gate
    clock: Clock
    run_line: RunLine

    def now(self) -> int:
        return int(self.clock.wall())


class BatchRun:
    """`start` it once; `cancel` ends its lines, after which it writes what there is."""

    def __init__(self, batch: Batch, rules: InputRules, means: Means) -> None:
        self._batch = batch
        self._rules = rules
        self._means = means
        self._lines: asyncio.Task[None] | None = None
        self._is_cancelled = batch.status == "cancelling"

    def cancel(self) -> None:
        """The batch is in the state `cancelling`: open lines end now, others do not begin."""
        self._is_cancelled = True
        if self._lines is not None:
            self._lines.cancel()

    async def run(self) -> None:
        """Until the batch has ended. Raises `sqlite3.Error`, `OSError` and `Unavailable` if the storage fails."""
        if self._batch.status == "validating" and not await self._validate():
            return
        ending = await self._run_lines()
        await self._write_files(ending)

    # -- validation ----------------------------------------------------------------------------------------------------

    async def _validate(self) -> bool:
        """Whether the batch can go on."""
        path = self._means.store.path(self._batch.input_file_id)
        lines, errors = await asyncio.to_thread(read_lines, path, self._rules)
        now = self._means.now()
        if errors:
            problems = LineErrors(tuple(errors))
            failed = msgspec.structs.replace(self._batch, status="failed", failed_at=now, errors=problems)
            return not await self._enter(failed, "validating") and await self._go_on_cancelled()
        await self._means.database.add_lines(self._batch.id, lines)
        begun = msgspec.structs.replace(self._batch, status="in_progress", in_progress_at=now)
        return await self._enter(begun, "validating") or await self._go_on_cancelled()

    async def _go_on_cancelled(self) -> bool:
        """The batch was cancelled under our hands."""
        self._batch = await self._means.database.batch(self._batch.id) or self._batch
        self._is_cancelled = True
        return True

    # -- lines ---------------------------------------------------------------------------------------------------------

    async def _run_lines(self) -> str:
        """How it ended: completed, cancelled or expired."""
        if self._batch.status == "finalizing":
            return "expired" if self._batch.expired_at is not None else "completed"
        if self._is_cancelled:
            return "cancelled"
        self._lines = asyncio.create_task(self._open_all())
        seconds_left = max(0.0, self._batch.expires_at - self._means.clock.wall())
        try:
            await asyncio.wait((self._lines,), timeout=seconds_left)
            ending = "cancelled" if self._is_cancelled else "completed" if self._lines.done() else "expired"
        finally:
            self._lines.cancel()
            await asyncio.wait((self._lines,))
        if not self._lines.cancelled() and (error := self._lines.exception()) is not None:
            raise error
        return ending

    async def _open_all(self) -> None:
        """Open every line that has no result, as the gate lets them, and wait for all."""
        after = 0
        tasks: set[asyncio.Task[None]] = set()
        try:
            while lines := await self._means.database.open_lines(self._batch.id, after):
                for line in lines:
                    await self._means.gate.enter()
                    tasks.add(self._open(line))
                    tasks = await _unfinished(tasks)
                after = lines[-1].number
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks = await _unfinished(tasks)
        finally:
            await _cancelled(tasks)

    def _open(self, line: Line) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run_line(line))
        task.add_done_callback(lambda _: self._means.gate.leave())
        return task

    async def _run_line(self, line: Line) -> None:
        body = await asyncio.to_thread(read_body, self._means.store.path(self._batch.input_file_id), line)
        reply = await self._reply(body)
        is_success = reply.status == 200
        written = self._written(line, response=_Response(reply.status, reply.request_id, msgspec.Raw(reply.body)))
        await self._means.database.add_result(self._batch.id, Result(line.number, is_success, written))

    async def _reply(self, body: bytes) -> LineReply:
        """Again and again while the server can not take it, or has lost it; not for ever, since the line may be the reason."""
        delay_s = FIRST_DELAY_S
        reply = await self._try_once(body)
        for _ in range(MAX_ATTEMPTS - 1):
            if reply.status != 503:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(MAX_DELAY_S, 2 * delay_s)
            reply = await self._try_once(body)
        return reply

    async def _try_once(self, body: bytes) -> LineReply:
        """An error that nobody expected ends this line only."""
        task = asyncio.ensure_future(self._means.run_line(self._batch.endpoint, body))
        try:
            await asyncio.wait((task,))
        finally:
            await _cancelled({task})
        error = task.exception()
        if error is None:
            return task.result()
        log.error("a line of batch %s failed: %r", self._batch.id, error, exc_info=error)
        return LineReply(500, "", FAILED)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _write_files(self, ending: str) -> None:
        """Write both files and the last state. Done again from the beginning it does the same."""
        batch, ending = await self._begin_end(ending)
        if ending in NOT_RUN:
            await self._give_up_lines(*NOT_RUN[ending])
        counts = await self._means.database.counts(batch.id)
        last = msgspec.structs.replace(
            batch,
            request_counts=counts,
            output_file_id=await self._write_file("output", is_success=True) if counts.completed else None,
            error_file_id=await self._write_file("error", is_success=False) if counts.failed else None,
            **{"status": ending, f"{ending}_at": self._means.now()},
        )
        await self._means.database.change(last, batch.status)
        await self._means.database.forget_lines()
        log.info("batch %s: %s, %d completed, %d failed", batch.id, ending, counts.completed, counts.failed)

    async def _begin_end(self, ending: str) -> tuple[Batch, str]:
        """From now on it can not be cancelled, unless it already was."""
        if ending != "cancelled" and self._batch.status != "finalizing":
            now = self._means.now()
            finalizing = msgspec.structs.replace(
                self._batch, status="finalizing", finalizing_at=now, expired_at=now if ending == "expired" else None
            )
            if await self._enter(finalizing, "in_progress"):
                return self._batch, ending
            ending = "cancelled"
        current = await self._means.database.batch(self._batch.id)
        return current or self._batch, ending

    async def _give_up_lines(self, code: str, message: str) -> None:
        """Every line that has no result gets one that says so."""
        after = 0
        while lines := await self._means.database.open_lines(self._batch.id, after):
            for line in lines:
                written = self._written(line, error=_Error(code, message))
                await self._means.database.add_result(self._batch.id, Result(line.number, False, written))
            after = lines[-1].number

    async def _write_file(self, kind: str, *, is_success: bool) -> str:
        """The id of the file, which is a function of the batch: a file that is written again replaces itself."""
        file_id = "file-" + hashlib.sha256(f"{self._batch.id} {kind}".encode()).hexdigest()[:32]
        partial = await self._means.store.begin(file_id)
        try:
            await self._copy_results(partial, is_success)
            await partial.finish()
        finally:
            await partial.discard()
        file = StoredFile(
            id=file_id,
            bytes=partial.num_bytes,
            created_at=self._means.now(),
            filename=f"{self._batch.id}_{kind}.jsonl",
            purpose=OUTPUT_PURPOSE,
        )
        await self._means.database.add_file(file)
        return file_id

    async def _copy_results(self, partial: PartialFile, is_success: bool) -> None:
        after = 0
        while results := await self._means.database.results(self._batch.id, after, is_success=is_success):
            await partial.write(b"".join(result.line for result in results))
            after = results[-1].number

    # -- how -----------------------------------------------------------------------------------------------------------

    async def _enter(self, batch: Batch, *statuses: Status) -> bool:
        """Write a new state, if nobody changed the one before; whether it was written."""
        is_written = await self._means.database.change(batch, *statuses)
        if is_written:
            self._batch = batch
        return is_written

    def _written(self, line: Line, response: _Response | None = None, error: _Error | None = None) -> bytes:
        """A line of the output or error file."""
        line_id = f"batch_req_{self._batch.id.removeprefix('batch_')}{line.number:06d}"
        return msgspec.json.encode(_OutputLine(line_id, line.custom_id, response, error)) + b"\n"


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _OutputLine(msgspec.Struct, frozen=True):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


async def _unfinished(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those of `tasks` that still run. Raises what the first of the others raised."""
    for task in tasks:
        if task.done():
            await task
    return {task for task in tasks if not task.done()}


async def _cancelled(tasks: Collection[asyncio.Future[Any]]) -> None:
    """End `tasks` and see them ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
