"""`/v1/loads`: how busy the server is, for routers."""

from __future__ import annotations

from aiohttp import web

from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.service import SERVICE
from runtime.messages import InspectPool, Probe


async def loads(request: web.Request) -> web.Response:
    """Requests and cached tokens, of the one rank and of all."""
    service = request.app[SERVICE]
    scheduler = await service.ask(service.scheduler, Probe())
    pool = await service.ask(service.cache, InspectPool())
    num_used_tokens = pool.num_leased_pages * pool.page_size
    counts = {
        "num_running_reqs": scheduler.num_running,
        "num_waiting_reqs": scheduler.num_waiting,
        "num_total_reqs": scheduler.num_running + scheduler.num_waiting,
        "num_used_tokens": num_used_tokens,
        "max_total_num_tokens": service.info.max_total_num_tokens,
        "token_usage": num_used_tokens / max(1, service.info.max_total_num_tokens),
    }
    return json_response(
        {
            "timestamp": service.clock.wall(),
            "version": service.info.version,
            "dp_rank_count": 1,
            "loads": [{"dp_rank": 0, **counts}],
            "aggregate": counts,
        }
    )


DOCUMENTS = {loads: Document(reply={"type": "object"})}
ROUTES = (web.get("/v1/loads", loads),)
