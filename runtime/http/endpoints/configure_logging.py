"""`/configure_logging`: turn the log of requests on and off."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.admin import admin_only
from runtime.http.body import read_optional_body
from runtime.http.document import Document
from runtime.http.schema.decoding import NULL, UNREAD, Unread, is_null, refuse
from runtime.http.service import SERVICE

MAX_LEVEL = 3

NOT_YET = {
    "dump_requests_folder": ("",),
    "dump_requests_threshold": (),
    "crash_dump_folder": ("",),
    "log_requests_format": ("text",),
    "log_requests_target": (),
}


class ConfigureLogging(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is. Level 0 logs what became of requests, 1 also parameters, 2 and 3 also prompts."""

    log_requests: bool | None = None
    log_requests_level: int | None = None

    dump_requests_folder: Unread = UNREAD
    dump_requests_threshold: Unread = UNREAD
    crash_dump_folder: Unread = UNREAD
    log_requests_format: Unread = UNREAD
    log_requests_target: Unread = UNREAD


async def configure_logging(request: web.Request) -> web.Response:
    """Change what the log says about requests."""
    body = await read_optional_body(request, ConfigureLogging)
    if is_null(body.dump_requests_folder):  # a threshold alone dumps nothing
        body.dump_requests_threshold = NULL
    refuse(body, NOT_YET)
    level = body.log_requests_level
    if level is not None and not 0 <= level <= MAX_LEVEL:
        raise InvalidRequest(f"log_requests_level must be in [0, {MAX_LEVEL}]", param="log_requests_level")
    request_log = request.app[SERVICE].request_log
    request_log.is_on = request_log.is_on if body.log_requests is None else body.log_requests
    request_log.level = request_log.level if level is None else level
    return web.Response()


DOCUMENTS = {configure_logging: Document(body=ConfigureLogging, is_body_optional=True, content_type=None)}
ROUTES = (
    web.post("/configure_logging", admin_only(configure_logging)),
    web.get("/configure_logging", admin_only(configure_logging), allow_head=False),
)
