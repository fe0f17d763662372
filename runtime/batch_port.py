"""Files and batches as the HTTP door sees them, which the composition root gives it. Values have the form of OpenAI's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

BATCH_PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """`bytes` is its size; `filename` is the client's label, never a path. Times are seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class Load(msgspec.Struct, frozen=True):
    """How busy the engine is: sequences it can run at once, and sequences that are open, waiting or running."""

    num_slots: int
    num_open: int


class RequestCounts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with a line of an input file; lines count from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class LineErrors(msgspec.Struct, frozen=True):
    data: tuple[LineError, ...]
    object: Literal["list"] = "list"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A job: its state, and when it came into each of its states."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    object: Literal["batch"] = "batch"
    errors: LineErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None

    @property
    def is_open(self) -> bool:
        return self.status in ("validating", "in_progress", "finalizing", "cancelling")


class LineReply(msgspec.Struct, frozen=True):
    """What an endpoint answered to a line: `body` is JSON. With a 503 the line may be run again."""

    status: int
    request_id: str
    body: bytes


RunLine = Callable[[str, bytes], Awaitable[LineReply]]
"""Runs the JSON body of a line at an endpoint, exactly as the endpoint would. Cancelling it ends the request."""


class Upload(Protocol):
    """A file that is being written. It is not there before `finish`."""

    async def write(self, chunk: bytes) -> None:
        """Raises `BodyTooLarge` when it gets too large, and `Unavailable` when the disk takes no more."""
        ...

    async def finish(self, filename: str, purpose: str) -> StoredFile: ...

    async def discard(self) -> None:
        """Remove what was written; nothing happens after `finish`."""
        ...


class BatchPort(Protocol):
    """All methods raise `Unavailable` if the storage can not be used."""

    @property
    def max_file_bytes(self) -> int: ...

    async def upload(self) -> Upload: ...

    async def file(self, file_id: str) -> StoredFile:
        """Raises `NotFound`."""
        ...

    async def files(self, purpose: str | None, after: str | None, limit: int, *, newest_first: bool) -> list[StoredFile]:
        """At most `limit`, from behind the file `after`. Raises `NotFound` if there is no such file."""
        ...

    async def content(self, file_id: str) -> Path:
        """Where the bytes are. Raises `NotFound`."""
        ...

    async def delete(self, file_id: str) -> None:
        """Raises `NotFound`, and `Conflict` while a batch reads it."""
        ...

    async def create(self, batch: NewBatch) -> Batch:
        """Raises `NotFound` or `InvalidRequest`."""
        ...

    async def batch(self, batch_id: str) -> Batch:
        """Raises `NotFound`."""
        ...

    async def batches(self, after: str | None, limit: int) -> list[Batch]:
        """The newest first. Raises `NotFound` if there is no batch `after`."""
        ...

    async def cancel(self, batch_id: str) -> Batch:
        """Raises `NotFound`, and `Conflict` if it has ended."""
        ...


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for; `window_s` is the completion window in seconds."""

    endpoint: str
    input_file_id: str
    completion_window: str
    window_s: int
    metadata: dict[str, str] | None = None
