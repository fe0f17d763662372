"""Reads a form with one file, which goes to the storage as it comes."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from runtime.batch_port import BatchPort, StoredFile, Upload
from runtime.errors import BodyTooLarge, InvalidRequest, RequestTimeout, Unsupported, UnsupportedMediaType

CHUNK_BYTES = 256 * 1024
CHUNK_TIMEOUT_S = 30.0
MAX_FIELD_BYTES = 256
MAX_PARTS = 8
MAX_FILENAME_CHARS = 255

PURPOSES = frozenset({"batch", "assistants", "fine-tune", "vision", "user_data", "evals"})
DEFAULT_PURPOSE = "batch"


async def receive_file(request: web.Request, batches: BatchPort) -> StoredFile:
    """The stored file of the form's field `file`. Raises `RequestError`; then nothing is left of it."""
    _check_size(request, batches.max_file_bytes)
    if request.content_type != "multipart/form-data":
        raise UnsupportedMediaType("a file is uploaded as multipart/form-data")
    form = _Form(batches)
    try:
        await form.read(aiohttp.MultipartReader(request.headers, request.content))
        return await form.finish()
    except TimeoutError:
        raise RequestTimeout(f"nothing of the file arrived for {CHUNK_TIMEOUT_S:g} s") from None
    except (ValueError, AssertionError, aiohttp.ClientPayloadError, aiohttp.http.HttpProcessingError):
        raise InvalidRequest("the body is not a valid multipart form") from None
    finally:
        await form.discard()


def _check_size(request: web.Request, max_file_bytes: int) -> None:
    if (request.content_length or 0) > max_file_bytes + MAX_PARTS * CHUNK_BYTES:
        raise BodyTooLarge(f"the file is larger than {max_file_bytes} bytes", param="file")


class _Form:
    def __init__(self, batches: BatchPort) -> None:
        self._batches = batches
        self._upload: Upload | None = None
        self._filename = ""
        self._purpose = DEFAULT_PURPOSE

    async def read(self, reader: aiohttp.MultipartReader) -> None:
        for _ in range(MAX_PARTS):
            async with asyncio.timeout(CHUNK_TIMEOUT_S):
                part = await reader.next()
            if part is None:
                return
            if not isinstance(part, aiohttp.BodyPartReader):
                raise InvalidRequest("a form inside the form is not accepted")
            await self._read_part(part)
        raise InvalidRequest(f"the form has more than {MAX_PARTS} fields")

    async def finish(self) -> StoredFile:
        if self._upload is None:
            raise InvalidRequest("the form has no file", param="file")
        return await self._upload.finish(self._filename, self._purpose)

    async def discard(self) -> None:
        if self._upload is not None:
            await self._upload.discard()

    async def _read_part(self, part: aiohttp.BodyPartReader) -> None:
        if part.name == "purpose":
            self._purpose = (await self._field(part)).decode("utf-8", "replace")
            if self._purpose not in PURPOSES:
                raise InvalidRequest(f"the purpose must be one of {', '.join(sorted(PURPOSES))}", param="purpose")
        elif part.name == "file" and self._upload is None:
            self._filename = (part.filename or "").encode("utf-8", "replace").decode()[:MAX_FILENAME_CHARS]
            self._upload = await self._batches.upload()
            while chunk := await _chunk(part):
                await self._upload.write(chunk)
        else:
            raise Unsupported("this field of the form is not supported", param=(part.name or "")[:MAX_FIELD_BYTES] or None)

    async def _field(self, part: aiohttp.BodyPartReader) -> bytes:
        value = b""
        while chunk := await _chunk(part):
            value += chunk
            if len(value) > MAX_FIELD_BYTES:
                raise InvalidRequest("this field of the form is too large", param=part.name)
        return value


async def _chunk(part: aiohttp.BodyPartReader) -> bytes:
    async with asyncio.timeout(CHUNK_TIMEOUT_S):
        return bytes(await part.read_chunk(CHUNK_BYTES))
