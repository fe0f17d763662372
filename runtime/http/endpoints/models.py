"""`/v1/models` and `/v1/models/{model}`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from runtime.http.document import Document
from runtime.http.info import ServerInfo
from runtime.http.responses import json_response
from runtime.http.schema.openai import check_model
from runtime.http.service import SERVICE


async def list_models(request: web.Request) -> web.Response:
    return json_response({"object": "list", "data": [_card(request.app[SERVICE].info)]})


async def retrieve_model(request: web.Request) -> web.Response:
    info = request.app[SERVICE].info
    check_model(request.match_info["model"], info)
    return json_response(_card(info))


def _card(info: ServerInfo) -> dict[str, Any]:
    return {
        "id": info.served_model_name,
        "object": "model",
        "created": info.started_at,
        "owned_by": "callboard",
        "root": info.served_model_name,
        "parent": None,
        "max_model_len": info.context_length,
    }


DOCUMENTS = {list_models: Document(reply={"type": "object"}), retrieve_model: Document(reply={"type": "object"}, errors=(404,))}
ROUTES = (web.get("/v1/models", list_models), web.get("/v1/models/{model:.+}", retrieve_model))
