"""`/v1/files`: upload, list, look at, read and delete files."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from runtime.batch_port import StoredFile
from runtime.errors import InvalidRequest
from runtime.http.batches import batches_of, limit_of, page, struct_response
from runtime.http.document import Document
from runtime.http.middleware import ask_for_body
from runtime.http.multipart import receive_file
from runtime.http.responses import json_response

MAX_FILES = 10_000


async def upload_file(request: web.Request) -> web.Response:
    """Store a file, up to the server's limit."""
    return struct_response(await receive_file(request, batches_of(request)))


async def list_files(request: web.Request) -> web.Response:
    limit = limit_of(request, MAX_FILES, MAX_FILES)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", param="order")
    purpose, after = request.query.get("purpose"), request.query.get("after")
    rows = await batches_of(request).files(purpose, after, limit + 1, newest_first=order == "desc")
    return json_response(page(rows, limit))


async def retrieve_file(request: web.Request) -> web.Response:
    return struct_response(await batches_of(request).file(request.match_info["file_id"]))


async def file_content(request: web.Request) -> web.StreamResponse:
    """The bytes of a file."""
    path = await batches_of(request).content(request.match_info["file_id"])
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file that no open batch reads."""
    file_id = request.match_info["file_id"]
    await batches_of(request).delete(file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


_LIST: dict[str, dict[str, Any]] = {
    "purpose": {"type": "string"},
    "after": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_FILES},
    "order": {"enum": ["asc", "desc"]},
}

DOCUMENTS = {
    upload_file: Document(reply=StoredFile, errors=(408, 413, 415)),
    list_files: Document(reply={"type": "object"}, query=_LIST, errors=(404,)),
    retrieve_file: Document(reply=StoredFile, errors=(404,)),
    file_content: Document(content_type="application/octet-stream", reply={"type": "string"}, errors=(404,)),
    delete_file: Document(reply={"type": "object"}, errors=(404, 409)),
}
ROUTES = (
    web.post("/v1/files", upload_file, expect_handler=ask_for_body),
    web.get("/v1/files", list_files),
    web.get("/v1/files/{file_id}", retrieve_file),
    web.get("/v1/files/{file_id}/content", file_content),
    web.delete("/v1/files/{file_id}", delete_file),
)
