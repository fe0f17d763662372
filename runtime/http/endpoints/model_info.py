"""`/get_model_info` with exactly the keys of SGLang 0.4, and `/model_info` with more."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from runtime.http.document import Document
from runtime.http.info import ServerInfo
from runtime.http.responses import json_response
from runtime.http.service import SERVICE


async def get_model_info(request: web.Request) -> web.Response:
    return json_response(_paths(request.app[SERVICE].info))


async def model_info(request: web.Request) -> web.Response:
    info = request.app[SERVICE].info
    more = {
        "served_model_name": info.served_model_name,
        "max_model_len": info.context_length,
        "vocab_size": info.vocab_size,
        "has_image_understanding": False,
        "has_audio_understanding": False,
    }
    return json_response(_paths(info) | more)


def _paths(info: ServerInfo) -> dict[str, Any]:
    return {"model_path": info.model_path, "tokenizer_path": info.tokenizer_path, "is_generation": True}


DOCUMENTS = {get_model_info: Document(reply={"type": "object"}), model_info: Document(reply={"type": "object"})}
ROUTES = (web.get("/get_model_info", get_model_info), web.get("/model_info", model_info))
