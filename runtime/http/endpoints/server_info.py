"""`/get_server_info`: all settings, and the counters by which a leak would show."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.service import SERVICE, Service
from runtime.messages import InspectPool, Probe


async def server_info(request: web.Request) -> web.Response:
    return json_response(await server_facts(request.app[SERVICE]))


async def server_facts(service: Service) -> dict[str, Any]:
    """Everything that clients, dashboards and tests may want to know, flat."""
    info = service.info
    facts = {
        "status": "draining" if service.replies.is_draining else "ready",
        "max_total_num_tokens": info.max_total_num_tokens,
        "max_req_input_len": min(info.context_length, info.max_total_num_tokens) - 1,
        "version": info.version,
        "model_path": info.model_path,
        "tokenizer_path": info.tokenizer_path,
        "served_model_name": info.served_model_name,
        "context_length": info.context_length,
        "role_template": info.role_template,
        "internal_states": [await _counters(service)],
    }
    return info.flags | facts


async def _counters(service: Service) -> dict[str, Any]:
    """Of the scheduler, the page pool and the table of replies; one such dict per data-parallel rank, of which there is one."""
    scheduler = await service.ask(service.scheduler, Probe())
    pool = await service.ask(service.cache, InspectPool())
    door = {
        "num_open_requests": service.replies.num_open,
        "num_late_rows": service.replies.num_late_rows,
        "num_tasks": len(asyncio.all_tasks()),
    }
    return msgspec.structs.asdict(scheduler) | msgspec.structs.asdict(pool) | door


DOCUMENTS = {server_info: Document(reply={"type": "object"})}
ROUTES = (web.get("/get_server_info", server_info), web.get("/server_info", server_info))
