"""`/start_profile` and `/stop_profile`: a trace of the executor's operators, written below `--profile-dir`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.admin import admin_only
from runtime.http.body import read_optional_body
from runtime.http.document import COMMAND, TEXT, Document
from runtime.http.schema.decoding import UNREAD, Unread, refuse
from runtime.http.service import SERVICE
from runtime.messages import StartProfile, StopProfile

PROFILE_DEADLINE_S = 120.0
"""The profiler takes seconds to load, and a trace of many steps to write."""

NOT_YET = {
    "start_step": (),
    "merge_profiles": (False,),
    "profile_by_stage": (False,),
    "profile_prefix": (),
    "profile_stages": (),
}


class Profile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`output_dir` is a folder inside of the server's. Activities are what the device has, whatever the client says."""

    output_dir: str | None = None
    num_steps: int | None = None

    activities: Unread = UNREAD
    with_stack: Unread = UNREAD
    record_shapes: Unread = UNREAD
    start_step: Unread = UNREAD
    merge_profiles: Unread = UNREAD
    profile_by_stage: Unread = UNREAD
    profile_prefix: Unread = UNREAD
    profile_stages: Unread = UNREAD


class StopBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing to say."""


async def start_profile(request: web.Request) -> web.Response:
    """Record what the executor does, for `num_steps` steps or until `/stop_profile`."""
    body = await read_optional_body(request, Profile)
    refuse(body, NOT_YET)
    if body.num_steps is not None and not 1 <= body.num_steps < 2**31:
        raise InvalidRequest("num_steps must be at least 1", param="num_steps")
    service = request.app[SERVICE]
    folder = Path(service.config.metrics.profile_dir) / _inner_path(body.output_dir or "")
    await service.command(service.scheduler, StartProfile(output_dir=str(folder), num_steps=body.num_steps), PROFILE_DEADLINE_S)
    return web.Response(text="Start profiling.\n")


async def stop_profile(request: web.Request) -> web.Response:
    """Write the trace, in Chrome's format."""
    await read_optional_body(request, StopBody)
    service = request.app[SERVICE]
    path = await service.command(service.scheduler, StopProfile(), PROFILE_DEADLINE_S)
    return web.Response(text="Stop profiling. This will take some time.\n", headers={"x-trace-path": str(path)})


def _inner_path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or len(text) > 255 or not text.isprintable():
        message = "output_dir must be a relative path: traces are written below the server's --profile-dir"
        raise InvalidRequest(message, param="output_dir")
    return path


DOCUMENTS = {
    start_profile: Document(body=Profile, is_body_optional=True, content_type=TEXT, reply={"type": "string"}, errors=COMMAND),
    stop_profile: Document(body=StopBody, is_body_optional=True, content_type=TEXT, reply={"type": "string"}, errors=COMMAND),
}
ROUTES = (
    web.post("/start_profile", admin_only(start_profile)),
    web.get("/start_profile", admin_only(start_profile), allow_head=False),
    web.post("/stop_profile", admin_only(stop_profile)),
    web.get("/stop_profile", admin_only(stop_profile), allow_head=False),
)
