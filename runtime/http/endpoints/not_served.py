"""Paths of SGLang's for what this server does not do. They say so, rather than that there is no such path."""

from __future__ import annotations

from aiohttp import web

from runtime.errors import Unsupported
from runtime.http.document import EMPTY

EMBEDDINGS = "embedding, reward and ranking models are not served: this server generates text"
LORA = "LoRA adapters are not supported"
TRANSFERS = "weights are not taken from other processes: write them to disk and call /update_weights_from_disk"

REASONS = {
    "/encode": EMBEDDINGS,
    "/classify": EMBEDDINGS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/classify": EMBEDDINGS,
    "/v1/rerank": EMBEDDINGS,
    "/v1/score": EMBEDDINGS,
    "/load_lora_adapter": LORA,
    "/unload_lora_adapter": LORA,
    "/init_weights_update_group": TRANSFERS,
    "/destroy_weights_update_group": TRANSFERS,
    "/update_weights_from_distributed": TRANSFERS,
    "/update_weights_from_tensor": TRANSFERS,
    "/update_weights_from_ipc": TRANSFERS,
}


async def refuse(request: web.Request) -> web.Response:
    """Always an error, which says why."""
    resource = request.match_info.route.resource
    assert resource is not None, "only the routes below come here"
    raise Unsupported(REASONS[resource.canonical], code="unsupported_endpoint")


DOCUMENTS = {refuse: EMPTY}
ROUTES = tuple(web.post(path, refuse) for path in REASONS)
