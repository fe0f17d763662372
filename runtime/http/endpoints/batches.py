"""`/v1/batches`: jobs that run the requests of a file, one line each, while nothing more urgent is to be done."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from runtime.batch_port import Batch, NewBatch
from runtime.errors import InvalidRequest
from runtime.http.batches import batches_of, limit_of, page, struct_response
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.schema.decoding import UNREAD, Unread, refuse

MAX_BATCHES = 100
DEFAULT_BATCHES = 20

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_WINDOW_S = 30 * 86400
_MAX_METADATA, _MAX_KEY_CHARS, _MAX_VALUE_CHARS = 16, 64, 512


class CreateBatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: Unread = UNREAD


async def create_batch(request: web.Request) -> web.Response:
    """Begin a batch; its lines are checked and run after the answer."""
    body = await read_body(request, CreateBatch)
    refuse(body, {"output_expires_after": ()})
    _check_metadata(body.metadata or {})
    new = NewBatch(
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        window_s=_window_s(body.completion_window),
        metadata=body.metadata,
    )
    return struct_response(await batches_of(request).create(new))


async def list_batches(request: web.Request) -> web.Response:
    limit = limit_of(request, DEFAULT_BATCHES, MAX_BATCHES)
    return json_response(page(await batches_of(request).batches(request.query.get("after"), limit + 1), limit))


async def retrieve_batch(request: web.Request) -> web.Response:
    return struct_response(await batches_of(request).batch(request.match_info["batch_id"]))


async def cancel_batch(request: web.Request) -> web.Response:
    """End a batch; what has run is in its output file."""
    return struct_response(await batches_of(request).cancel(request.match_info["batch_id"]))


def _window_s(window: str) -> int:
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= _MAX_WINDOW_S:
        raise InvalidRequest("completion_window must be a time like '24h', and at most 30 days", param="completion_window")
    return seconds


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > _MAX_METADATA:
        raise InvalidRequest(f"metadata may have at most {_MAX_METADATA} keys", param="metadata")
    for key, value in metadata.items():
        if len(key) > _MAX_KEY_CHARS or len(value) > _MAX_VALUE_CHARS:
            message = f"keys of metadata have at most {_MAX_KEY_CHARS} characters, values at most {_MAX_VALUE_CHARS}"
            raise InvalidRequest(message, param="metadata")


_LIST: dict[str, dict[str, Any]] = {
    "after": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_BATCHES},
}

DOCUMENTS = {
    create_batch: Document(body=CreateBatch, reply=Batch, errors=(404,)),
    list_batches: Document(reply={"type": "object"}, query=_LIST, errors=(404,)),
    retrieve_batch: Document(reply=Batch, errors=(404,)),
    cancel_batch: Document(reply=Batch, errors=(404, 409)),
}
ROUTES = (
    web.post("/v1/batches", create_batch),
    web.get("/v1/batches", list_batches),
    web.get("/v1/batches/{batch_id}", retrieve_batch),
    web.post("/v1/batches/{batch_id}/cancel", cancel_batch),
)
