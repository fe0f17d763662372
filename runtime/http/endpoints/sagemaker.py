"""`/ping` and `/invocations`: the server as Amazon's SageMaker expects one."""

from __future__ import annotations

from aiohttp import web

from runtime.http.document import Documents
from runtime.http.endpoints.chat_completions import chat_completions
from runtime.http.endpoints.health import health

DOCUMENTS: Documents = {}
"""Both handlers have their own."""

ROUTES = (web.get("/ping", health), web.post("/invocations", chat_completions))
