"""The aiohttp application: every endpoint of the endpoints folder, behind the middlewares.

Each module of `runtime.http.endpoints` has `ROUTES`, so that one file adds an endpoint; what its handlers read and answer it
says in `DOCUMENTS`.
"""

from __future__ import annotations

from random import Random

from aiohttp import web
from aiohttp.typedefs import Middleware

from runtime import extensions
from runtime.actors.actor import Ref
from runtime.clock import Clock
from runtime.config import Config
from runtime.http.info import ServerInfo
from runtime.http.middleware import answer_errors, answer_preflight, check_expectation, require_key, stamp
from runtime.http.openapi import DESCRIPTION, Description
from runtime.http.plain_text import PLAIN_TEXT
from runtime.http.replies import Replies
from runtime.http.service import SERVICE, Service
from runtime.output_plan import OutputParsing

ENDPOINTS = "runtime.http.endpoints"


def make_app(
    replies: Replies,
    config: Config,
    info: ServerInfo,
    *,
    clock: Clock,
    seeds: Random,
    scheduler: Ref,
    cache: Ref,
    metrics: Ref,
    tokenizer: Ref,
    output_parsing: OutputParsing = PLAIN_TEXT,
) -> web.Application:
    """The refs are asked, never told; `seeds` gives requests without a seed theirs."""
    middlewares: list[Middleware] = [answer_errors, answer_preflight]
    if config.http.api_key is not None:
        keys = (config.http.api_key, config.http.admin_api_key)
        middlewares.append(require_key(*[key for key in keys if key is not None]))
    app = web.Application(middlewares=middlewares, client_max_size=config.http.max_body_bytes)
    app[SERVICE] = Service(
        replies=replies,
        config=config,
        info=info,
        clock=clock,
        seeds=seeds,
        scheduler=scheduler,
        cache=cache,
        metrics=metrics,
        tokenizer=tokenizer,
        output_parsing=output_parsing,
    )
    modules = [extensions.load(ENDPOINTS, name) for name in extensions.names(ENDPOINTS)]
    routes = [route for module in modules for route in module.ROUTES]
    documents = {handler: one for module in modules for handler, one in vars(module).get("DOCUMENTS", {}).items()}
    app.add_routes(_with_expectation(route) for route in routes)
    app[DESCRIPTION] = Description(routes, documents, info)
    app.on_response_prepare.append(stamp)
    return app


def _with_expectation(route: web.RouteDef) -> web.RouteDef:
    return web.RouteDef(route.method, route.path, route.handler, {"expect_handler": check_expectation, **route.kwargs})
