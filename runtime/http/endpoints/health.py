"""Whether the server lives, can take requests, and can generate.

`/livez` says that the process answers; `/health` and `/ready` that the engine moves and requests are taken; `/health_generate`
generates one token to be sure.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from runtime.errors import Unavailable
from runtime.http.document import EMPTY
from runtime.http.generation import Generation
from runtime.http.service import SERVICE
from runtime.messages import Probe
from runtime.params import SamplingParams, TextOptions, TokenPrompt

GENERATE_DEADLINE_S = 20.0

PROBE = Generation(
    prompt=TokenPrompt((0,)),
    params=SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True),
    text=TextOptions(),
    label="health",
    is_counted=False,
)


async def live(request: web.Request) -> web.Response:
    return web.Response()


async def health(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    if service.replies.is_draining:
        raise Unavailable("the server is shutting down", code="draining")
    state = await service.ask(service.scheduler, Probe())
    if service.progress.is_stalled(state, service.clock.monotonic(), service.replies.busy_since):
        raise Unavailable("the engine has work but makes no steps", code="stalled")
    return web.Response()


async def health_generate(request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(GENERATE_DEADLINE_S):
            with request.app[SERVICE].open([PROBE]) as bundle:
                await bundle.whole()
    except TimeoutError:
        raise Unavailable(f"no token came within {GENERATE_DEADLINE_S:g} s", code="stalled") from None
    return web.Response()


DOCUMENTS = dict.fromkeys((live, health, health_generate), EMPTY)
ROUTES = (
    web.get("/livez", live),
    web.get("/health", health),
    web.get("/ready", health),
    web.get("/health_generate", health_generate),
)
