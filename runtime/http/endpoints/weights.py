"""The weights while the server runs: load others, read some, give their memory back."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest, RequestError
from runtime.http.admin import admin_only
from runtime.http.body import read_body, read_optional_body
from runtime.http.document import COMMAND, Document
from runtime.http.responses import error_response, json_response
from runtime.http.schema.decoding import UNREAD, Unread, refuse
from runtime.http.service import SERVICE, Service
from runtime.messages import ReadWeights, ReleaseMemory, ResumeMemory, UpdateWeights

MEMORY_DEADLINE_S = 60.0
MAX_TRUNCATE_SIZE = 10_000

NOT_YET = {"weight_version": (), "token_step": (0,), "manifest": (), "keep_pause": (False,), "recapture_cuda_graph": (False,)}


class UpdateWeightsFromDisk(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The cache is flushed and the call returns when it is done, whatever `flush_cache` and `is_async` say."""

    model_path: str
    load_format: str | None = None
    abort_all_requests: bool | None = None

    flush_cache: Literal[True] | None = None
    is_async: Literal[False] | None = None
    torch_empty_cache: Unread = UNREAD
    weight_version: Unread = UNREAD
    token_step: Unread = UNREAD
    manifest: Unread = UNREAD
    keep_pause: Unread = UNREAD
    recapture_cuda_graph: Unread = UNREAD


class GetWeightsByName(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    truncate_size: int | None = None


class UpdateReply(msgspec.Struct, kw_only=True):
    success: bool
    message: str
    num_paused_requests: int


Tag = Literal["weights", "kv_cache"]


class MemoryOccupation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Without `tags`, both."""

    tags: list[Tag] | None = None


async def update_weights_from_disk(request: web.Request) -> web.Response:
    """Load the weights of another checkpoint of the same model, after running requests ended; a failure changes nothing."""
    body = await read_body(request, UpdateWeightsFromDisk)
    refuse(body, NOT_YET)
    service = request.app[SERVICE]
    message = UpdateWeights(model_path=body.model_path, load_format=body.load_format, aborts_all=bool(body.abort_all_requests))
    try:
        await service.command(service.scheduler, message, service.config.http.request_timeout)
    except RequestError as error:
        return error_response(error.failure, success=False, message=error.failure.message)
    _rename(service, body.model_path)
    return json_response({"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0})


async def get_weights_by_name(request: web.Request) -> web.Response:
    """The first rows of a parameter, by its name in the checkpoint."""
    body = await read_body(request, GetWeightsByName)
    size = 100 if body.truncate_size is None else body.truncate_size
    if not 1 <= size <= MAX_TRUNCATE_SIZE:
        raise InvalidRequest(f"truncate_size must be in [1, {MAX_TRUNCATE_SIZE}]", param="truncate_size")
    service = request.app[SERVICE]
    return json_response(await service.command(service.scheduler, ReadWeights(name=body.name, truncate_size=size)))


async def release_memory_occupation(request: web.Request) -> web.Response:
    """Give the memory of the weights and the KV cache back. Refused while requests are open."""
    message = ReleaseMemory(tags=await _tags(request))
    service = request.app[SERVICE]
    await service.command(service.scheduler, message, MEMORY_DEADLINE_S)
    return json_response(None)


async def resume_memory_occupation(request: web.Request) -> web.Response:
    """Take the memory again."""
    message = ResumeMemory(tags=await _tags(request))
    service = request.app[SERVICE]
    await service.command(service.scheduler, message, MEMORY_DEADLINE_S)
    return json_response(None)


async def _tags(request: web.Request) -> tuple[Tag, ...]:
    body = await read_optional_body(request, MemoryOccupation)
    return tuple(dict.fromkeys(body.tags or ("weights", "kv_cache")))


def _rename(service: Service, model_path: str) -> None:
    """As SGLang does: what is served is now called by where it came from."""
    service.info = msgspec.structs.replace(service.info, model_path=model_path, served_model_name=model_path)


DOCUMENTS = {
    update_weights_from_disk: Document(body=UpdateWeightsFromDisk, reply=UpdateReply, errors=COMMAND),
    get_weights_by_name: Document(body=GetWeightsByName, reply={"type": "array"}, errors=COMMAND),
    release_memory_occupation: Document(body=MemoryOccupation, is_body_optional=True, reply={"type": "null"}, errors=COMMAND),
    resume_memory_occupation: Document(body=MemoryOccupation, is_body_optional=True, reply={"type": "null"}, errors=COMMAND),
}
ROUTES = (
    web.post("/update_weights_from_disk", admin_only(update_weights_from_disk)),
    web.get("/get_weights_by_name", admin_only(get_weights_by_name), allow_head=False),
    web.post("/get_weights_by_name", admin_only(get_weights_by_name)),
    web.get("/release_memory_occupation", admin_only(release_memory_occupation), allow_head=False),
    web.post("/release_memory_occupation", admin_only(release_memory_occupation)),
    web.get("/resume_memory_occupation", admin_only(resume_memory_occupation), allow_head=False),
    web.post("/resume_memory_occupation", admin_only(resume_memory_occupation)),
)
