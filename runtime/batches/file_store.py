"""The bytes of stored files, each under its id in one folder.

A file is written beside its place and moved there when it is complete, so that no half file is ever served. Invariant: names on
disk are ids that were made here. Disk work is done on threads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from runtime.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

PARTIAL = ".part"


class FileStore:
    """Owns the folder, which must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, file_id: str) -> Path:
        """Where the file with an id that was made here is, or will be."""
        return self._folder / file_id

    async def begin(self, file_id: str) -> PartialFile:
        """Raises `Unavailable` if the disk does not take it."""
        return PartialFile(self.path(file_id), await _on_disk(open, self.path(file_id + PARTIAL), "wb"))

    async def remove(self, file_id: str) -> None:
        await _on_disk(_remove, self.path(file_id))

    async def keep_only(self, file_ids: set[str]) -> None:
        """Remove what a process that was killed left behind."""
        names = await _on_disk(os.listdir, self._folder)
        for name in set(names) - file_ids:
            await _on_disk(_remove, self._folder / name)


class PartialFile:
    """A file that is being written. `finish` or `discard` ends it."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self.num_bytes = 0

    async def write(self, chunk: bytes) -> None:
        """Raises `Unavailable` if the disk takes no more."""
        await _on_disk(self._stream.write, chunk)
        self.num_bytes += len(chunk)

    async def finish(self) -> None:
        """Put the file in its place. Raises `Unavailable`."""
        await _on_disk(self._put)

    async def discard(self) -> None:
        """Remove what was written, unless it is in its place."""
        await asyncio.to_thread(self._stream.close)
        await _on_disk(_remove, Path(self._stream.name))

    def _put(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._stream.name, self._path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _on_disk(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    try:
        return await asyncio.to_thread(work, *arguments, **options)
    except OSError as error:
        raise Unavailable(
            f"the file storage can not be used: {error.strerror}", code="storage_failed", retry_after=60
        ) from error
