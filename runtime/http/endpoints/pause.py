"""`/pause_generation` and `/continue_generation`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from runtime.http.admin import admin_only
from runtime.http.body import read_optional_body
from runtime.http.document import COMMAND, Document
from runtime.http.responses import json_response
from runtime.http.service import SERVICE
from runtime.messages import ContinueGeneration, PauseGeneration, PauseMode


class Pause(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Running requests are aborted, give their cache back, or keep it."""

    mode: PauseMode = "abort"


class Continue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Nothing to say."""


class PauseReply(msgspec.Struct, kw_only=True):
    status: str
    message: str


async def pause_generation(request: web.Request) -> web.Response:
    """Make no more steps until `/continue_generation`."""
    body = await read_optional_body(request, Pause)
    service = request.app[SERVICE]
    await service.command(service.scheduler, PauseGeneration(mode=body.mode))
    return json_response({"status": "ok", "message": "Generation paused successfully."})


async def continue_generation(request: web.Request) -> web.Response:
    """End a pause."""
    await read_optional_body(request, Continue)
    service = request.app[SERVICE]
    await service.command(service.scheduler, ContinueGeneration())
    return json_response({"status": "ok", "message": "Generation continued successfully."})


DOCUMENTS = {
    pause_generation: Document(body=Pause, is_body_optional=True, reply=PauseReply, errors=COMMAND),
    continue_generation: Document(body=Continue, is_body_optional=True, reply=PauseReply, errors=COMMAND),
}
ROUTES = (
    web.post("/pause_generation", admin_only(pause_generation)),
    web.post("/continue_generation", admin_only(continue_generation)),
)
